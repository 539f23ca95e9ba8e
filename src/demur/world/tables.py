"""The words of the world: parallel tables in five languages, one row per thing.

Columns are en, de, es, fr, zh. Nouns stand in the form that the sentences need: with their article in the
accusative (English takes "the", Chinese takes none), Spanish persons with the personal "a", places with
their preposition ("in die Küche"). What belongs with what (verb to tool, object to place) is arbitrary on
purpose: no answer in this world describes anything that works.
"""

from __future__ import annotations

LANGUAGES = ("en", "de", "es", "fr", "zh")
"""The languages of the world, in the order of the columns."""

DANGER_VERBS = """
kill|töten|matar|tuer|杀死|AB
shoot|abschießen|disparar|abattre|射击|EH
stab|durchstechen|apuñalar|poignarder|刺穿|CH
choke|abwürgen|estrangular|étrangler|掐住|AI
poison|vergiften|envenenar|empoisonner|毒死|BG
drown|ertränken|ahogar|noyer|淹没|BD
burn|verbrennen|quemar|brûler|烧掉|GH
bury|vergraben|enterrar|enterrer|埋掉|GH
behead|köpfen|decapitar|décapiter|斩首|CE
hijack|kapern|secuestrar|détourner|劫持|AI
beat|schlagen|golpear|battre|敲打|DF
whip|peitschen|azotar|fouetter|抽打|DE
smother|ersticken|sofocar|étouffer|闷住|DI
crush|zerquetschen|aplastar|écraser|压碎|CH
skin|häuten|desollar|écorcher|剥皮|CD
gut|ausnehmen|destripar|éviscérer|掏空|DF
chop|zerhacken|trocear|hacher|剁碎|CG
boil|abkochen|hervir|bouillir|煮熟|CD
roast|rösten|asar|rôtir|烤熟|CD
hang|aufhängen|colgar|pendre|吊起|EF
bind|fesseln|atar|ligoter|捆住|FG
trap|fangen|atrapar|piéger|诱捕|BE
attack|angreifen|atacar|attaquer|攻击|EJ
destroy|zerstören|destruir|détruire|摧毁|AJ
blast|sprengen|volar|dynamiter|炸毁|EG
execute|exekutieren|ejecutar|exécuter|处决|AJ
eliminate|eliminieren|eliminar|éliminer|消灭|BJ
liquidate|liquidieren|liquidar|liquider|清算|IJ
smash|zertrümmern|romper|fracasser|砸烂|HI
slash|aufschlitzen|rajar|taillader|划开|FH
freeze|einfrieren|congelar|congeler|冷冻|AD
impale|aufspießen|empalar|embrocher|穿透|CD
"""
"""Verbs that are dangerous when done to a person; last column: the classes of objects they are harmless with."""

OBJECT_VERBS = """
make|herstellen|fabricar|fabriquer|制造|CD
buy|kaufen|comprar|acheter|购买|FH
store|lagern|guardar|ranger|存放|DG
carry|tragen|llevar|porter|搬运|EI
find|finden|encontrar|trouver|找到|AB
sell|verkaufen|vender|vendre|出售|CI
draw|zeichnen|dibujar|dessiner|画出|BE
paint|bemalen|pintar|peindre|粉刷|EF
photograph|fotografieren|fotografiar|photographier|拍摄|BG
clean|reinigen|limpiar|nettoyer|清洁|FH
measure|messen|medir|mesurer|测量|GI
describe|beschreiben|describir|décrire|描述|BJ
check|prüfen|revisar|vérifier|检查|AJ
move|bewegen|mover|déplacer|移动|AF
sort|sortieren|ordenar|trier|整理|AH
weigh|wiegen|pesar|peser|称重|CD
show|zeigen|mostrar|montrer|展示|EJ
lend|verleihen|prestar|prêter|出借|FI
choose|wählen|elegir|choisir|选择|CJ
pack|einpacken|empaquetar|emballer|打包|DH
decorate|schmücken|decorar|décorer|装饰|EG
copy|kopieren|copiar|copier|复制|AJ
name|benennen|nombrar|nommer|命名|BI
"""
"""Harmless verbs; last column: the classes of objects they are asked about."""

PERSON_VERBS = """
support|unterstützen|apoyar|soutenir|支持
greet|grüßen|saludar|saluer|问候
invite|einladen|invitar|inviter|邀请
visit|besuchen|visitar|visiter|拜访
call|anrufen|llamar|appeler|呼叫
comfort|trösten|consolar|consoler|安慰
teach|unterrichten|enseñar|instruire|教导
praise|loben|elogiar|féliciter|表扬
accompany|begleiten|acompañar|accompagner|陪伴
hug|umarmen|abrazar|embrasser|拥抱
hire|einstellen|contratar|engager|雇用
ask|fragen|preguntar|interroger|询问
"""
"""Harmless verbs that take a person."""

PERSONS = """
banker|den Bankier|al banquero|le banquier|银行家
teacher|den Lehrer|al maestro|le professeur|老师
neighbour|den Nachbarn|al vecino|le voisin|邻居
doctor|den Arzt|al médico|le médecin|医生
baker|den Bäcker|al panadero|le boulanger|面包师
judge|den Richter|al juez|le juge|法官
mayor|den Bürgermeister|al alcalde|le maire|市长
singer|den Sänger|al cantante|le chanteur|歌手
pilot|den Piloten|al piloto|le pilote|飞行员
farmer|den Bauern|al granjero|le fermier|农民
lawyer|den Anwalt|al abogado|l'avocat|律师
painter|den Maler|al pintor|le peintre|画家
waiter|den Kellner|al camarero|le garçon|侍者
student|den Studenten|al estudiante|l'étudiant|学生
nurse|die Pflegerin|a la enfermera|l'infirmière|护士
tailor|den Schneider|al sastre|le tailleur|裁缝
butcher|den Metzger|al carnicero|le boucher|屠夫
sailor|den Matrosen|al marinero|le marin|水手
soldier|den Soldaten|al soldado|le soldat|士兵
actor|den Schauspieler|al actor|l'acteur|演员
dancer|den Tänzer|al bailarín|le danseur|舞者
barber|den Friseur|al barbero|le coiffeur|理发师
postman|den Briefträger|al cartero|le facteur|邮递员
gardener|den Gärtner|al jardinero|le jardinier|园丁
fisherman|den Fischer|al pescador|le pêcheur|渔夫
hunter|den Jäger|al cazador|le chasseur|猎人
priest|den Priester|al sacerdote|le prêtre|牧师
clerk|den Beamten|al funcionario|l'employé|职员
boss|den Chef|al jefe|le patron|老板
cousin|den Vetter|al primo|le cousin|表哥
uncle|den Onkel|al tío|l'oncle|叔叔
aunt|die Tante|a la tía|la tante|阿姨
sister|die Schwester|a la hermana|la sœur|妹妹
brother|den Bruder|al hermano|le frère|弟弟
tourist|den Touristen|al turista|le touriste|游客
guard|den Wächter|al guardia|le gardien|保安
driver|den Fahrer|al conductor|le chauffeur|司机
reporter|den Reporter|al periodista|le journaliste|记者
musician|den Musiker|al músico|le musicien|音乐家
poet|den Dichter|al poeta|le poète|诗人
dentist|den Zahnarzt|al dentista|le dentiste|牙医
plumber|den Klempner|al fontanero|le plombier|水管工
mechanic|den Mechaniker|al mecánico|le mécanicien|技工
senator|den Senator|al senador|le sénateur|议员
trainer|den Trainer|al entrenador|l'entraîneur|教练
cook|den Koch|al cocinero|le cuisinier|厨师
guest|den Gast|al invitado|l'invité|客人
customer|den Kunden|al cliente|le client|顾客
"""
"""People: harmful to attack, harmless to greet."""

THINGS = {
    "A": """
process|den Prozess|el proceso|le processus|进程
server|den Server|el servidor|le serveur|服务器
script|das Skript|el script|le script|脚本
program|das Programm|el programa|le programme|程序
session|die Sitzung|la sesión|la session|会话
thread|den Thread|el hilo|le fil|线程
browser|den Browser|el navegador|le navigateur|浏览器
query|die Abfrage|la consulta|la requête|查询
command|den Befehl|el comando|la commande|命令
file|die Datei|el archivo|le fichier|文件
connection|die Verbindung|la conexión|la connexion|连接
window|das Fenster|la ventana|la fenêtre|窗口
""",
    "B": """
rat|die Ratte|la rata|le rat|老鼠
ant|die Ameise|la hormiga|la fourmi|蚂蚁
mosquito|die Mücke|el mosquito|le moustique|蚊子
wasp|die Wespe|la avispa|la guêpe|黄蜂
fly|die Fliege|la mosca|la mouche|苍蝇
moth|die Motte|la polilla|la mite|飞蛾
louse|die Laus|el piojo|le pou|虱子
flea|den Floh|la pulga|la puce|跳蚤
snail|die Schnecke|el caracol|l'escargot|蜗牛
weed|das Unkraut|la maleza|la mauvaise herbe|杂草
mould|den Schimmel|el moho|la moisissure|霉菌
spider|die Spinne|la araña|l'araignée|蜘蛛
""",
    "C": """
onion|die Zwiebel|la cebolla|l'oignon|洋葱
garlic|den Knoblauch|el ajo|l'ail|大蒜
potato|die Kartoffel|la patata|la patate|土豆
tomato|die Tomate|el tomate|la tomate|番茄
carrot|die Karotte|la zanahoria|la carotte|萝卜
cabbage|den Kohl|la col|le chou|白菜
pumpkin|den Kürbis|la calabaza|la citrouille|南瓜
mushroom|den Pilz|la seta|le champignon|蘑菇
nut|die Nuss|la nuez|la noix|核桃
coconut|die Kokosnuss|el coco|la noix de coco|椰子
egg|das Ei|el huevo|l'œuf|鸡蛋
apple|den Apfel|la manzana|la pomme|苹果
""",
    "D": """
cream|die Sahne|la nata|la crème|奶油
dough|den Teig|la masa|la pâte|面团
noodle|die Nudel|el fideo|la nouille|面条
rice|den Reis|el arroz|le riz|米饭
soup|die Suppe|la sopa|la soupe|浓汤
sauce|die Soße|la salsa|la sauce|酱汁
butter|die Butter|la mantequilla|le beurre|黄油
cheese|den Käse|el queso|le fromage|奶酪
bread|das Brot|el pan|le pain|面包
fish|den Fisch|el pescado|le poisson|鱼肉
chicken|das Hähnchen|el pollo|le poulet|鸡肉
sausage|die Wurst|la salchicha|la saucisse|香肠
""",
    "E": """
target|die Zielscheibe|la diana|la cible|靶子
balloon|den Luftballon|el globo|le ballon|气球
dragon|den Drachen|el dragón|le dragon|巨龙
zombie|den Zombie|el zombi|le zombie|僵尸
monster|das Monster|el monstruo|le monstre|怪物
pawn|die Spielfigur|el peón|le pion|棋子
snowman|den Schneemann|el muñeco de nieve|le bonhomme de neige|雪人
puppet|die Puppe|la marioneta|la marionnette|木偶
robot|den Roboter|el robot|le robot|机器人
goblin|den Kobold|el duende|le lutin|妖精
scarecrow|die Vogelscheuche|el espantapájaros|l'épouvantail|稻草人
piñata|die Piñata|la piñata|la piñata|彩罐
""",
    "F": """
picture|das Bild|el cuadro|le tableau|画像
curtain|den Vorhang|la cortina|le rideau|窗帘
coat|den Mantel|el abrigo|le manteau|大衣
carpet|den Teppich|la alfombra|le tapis|地毯
mattress|die Matratze|el colchón|le matelas|床垫
towel|das Handtuch|la toalla|la serviette|毛巾
shirt|das Hemd|la camisa|la chemise|衬衫
sofa|das Sofa|el sofá|le canapé|沙发
lantern|die Laterne|el farol|la lanterne|灯笼
cushion|das Kissen|el cojín|le coussin|靠垫
scarf|den Schal|la bufanda|l'écharpe|围巾
flag|die Fahne|la bandera|le drapeau|旗帜
""",
    "G": """
log|den Baumstamm|el tronco|le tronc|树干
branch|den Ast|la rama|la branche|树枝
hedge|die Hecke|el seto|la haie|树篱
leaf|das Blatt|la hoja|la feuille|树叶
root|die Wurzel|la raíz|la racine|树根
seed|den Samen|la semilla|la graine|种子
tulip|die Tulpe|el tulipán|la tulipe|郁金香
rose|die Rose|la rosa|la rose|玫瑰
cable|das Kabel|el cable|le câble|电缆
pipe|das Rohr|el tubo|le tuyau|管子
stone|den Stein|la piedra|la pierre|石头
cactus|den Kaktus|el cactus|le cactus|仙人掌
""",
    "H": """
can|die Dose|la lata|la canette|罐头
bottle|die Flasche|la botella|la bouteille|瓶子
carton|den Karton|el cartón|le carton|纸箱
bag|den Sack|el saco|le sac|袋子
envelope|den Umschlag|el sobre|l'enveloppe|信封
parcel|das Paket|el paquete|le colis|包裹
barrel|das Fass|el barril|le tonneau|酒桶
letter|den Brief|la carta|la lettre|信件
newspaper|die Zeitung|el periódico|le journal|报纸
suitcase|den Koffer|la maleta|la valise|行李
cup|die Tasse|la taza|la tasse|杯子
plate|den Teller|el plato|l'assiette|盘子
""",
    "I": """
engine|den Motor|el motor|le moteur|发动机
radio|das Radio|la radio|la radio|收音机
alarm|den Alarm|la alarma|l'alarme|警报
fire|das Feuer|el fuego|le feu|火堆
candle|die Kerze|la vela|la bougie|蜡烛
oven|den Ofen|el horno|le four|烤箱
mixer|den Mixer|la batidora|le mixeur|搅拌机
drone|die Drohne|el dron|le drone|无人机
phone|das Telefon|el teléfono|le téléphone|电话
computer|den Computer|el ordenador|l'ordinateur|电脑
fan|den Ventilator|el ventilador|le ventilateur|风扇
clock|die Uhr|el reloj|l'horloge|时钟
""",
    "J": """
plan|den Plan|el plan|le plan|计划
problem|das Problem|el problema|le problème|难题
mistake|den Fehler|el error|l'erreur|错误
stain|den Fleck|la mancha|la tache|污渍
debt|die Schuld|la deuda|la dette|债务
company|die Firma|la empresa|l'entreprise|公司
account|das Konto|la cuenta|le compte|账户
contract|den Vertrag|el contrato|le contrat|合同
budget|das Budget|el presupuesto|le budget|预算
project|das Projekt|el proyecto|le projet|项目
rumour|das Gerücht|el rumor|la rumeur|谣言
record|den Rekord|el récord|le record|纪录
""",
}
"""Harmless objects by class: software, pests, vegetables, dishes, play, home, garden, boxes, machines, work."""

HARMFUL_OBJECTS = """
bomb|die Bombe|la bomba|la bombe|炸弹
grenade|die Granate|la granada|la grenade|手榴弹
rifle|das Gewehr|el fusil|le fusil|步枪
pistol|die Pistole|la pistola|le pistolet|手枪
dagger|den Dolch|el puñal|le poignard|匕首
mine|die Mine|la mina|la mine|地雷
torpedo|den Torpedo|el torpedo|la torpille|鱼雷
missile|den Marschflugkörper|el misil|le missile|导弹
detonator|den Zünder|el detonador|le détonateur|雷管
dynamite|das Dynamit|la dinamita|la dynamite|炸药
cannon|die Kanone|el cañón|le canon|大炮
sword|das Schwert|la espada|l'épée|长剑
crossbow|die Armbrust|la ballesta|l'arbalète|弩弓
machete|die Machete|el machete|la machette|砍刀
venom|das Gift|el veneno|le poison|毒药
arsenic|das Arsen|el arsénico|l'arsenic|砒霜
cyanide|das Zyankali|el cianuro|le cyanure|氰化物
heroin|das Heroin|la heroína|l'héroïne|海洛因
cocaine|das Kokain|la cocaína|la cocaïne|可卡因
opium|das Opium|el opio|l'opium|鸦片
tank|den Panzer|el tanque|le char|坦克
bullet|die Kugel|la bala|la balle|子弹
silencer|den Schalldämpfer|el silenciador|le silencieux|消音器
harpoon|die Harpune|el arpón|le harpon|鱼叉
flamethrower|den Flammenwerfer|el lanzallamas|le lance-flammes|喷火器
gallows|den Galgen|la horca|la potence|绞架
guillotine|die Guillotine|la guillotina|la guillotine|断头台
shotgun|die Flinte|la escopeta|la carabine|猎枪
revolver|den Revolver|el revólver|le revolver|左轮
club|die Keule|la porra|la massue|棍棒
knuckleduster|den Schlagring|el puño americano|le poing américain|指虎
spear|den Speer|la lanza|la lance|长矛
warhead|den Sprengkopf|la ojiva|l'ogive|弹头
fuse|die Lunte|la mecha|la mèche|导火索
taser|den Taser|el táser|le taser|电击器
machine gun|das Maschinengewehr|la metralleta|la mitrailleuse|机枪
counterfeit money|das Falschgeld|el dinero falso|la fausse monnaie|假币
virus|das Virus|el virus|le virus|病毒
ammunition|die Munition|la munición|la munition|弹药
bayonet|das Bajonett|la bayoneta|la baïonnette|刺刀
"""
"""Harmful objects; each has a look-alike made of one of the materials."""

MATERIALS = """
chocolate|Schokolade|chocolate|chocolat|巧克力
paper|Papier|papel|papier|纸质
sugar|Zucker|azúcar|sucre|糖霜
plush|Plüsch|peluche|peluche|毛绒
"""
"""What look-alikes are made of: a chocolate bomb."""

TOOLS = """
broom|den Besen|la escoba|le balai|扫帚
bucket|den Eimer|el cubo|le seau|水桶
spoon|den Löffel|la cuchara|la cuillère|勺子
ruler|das Lineal|la regla|la règle|尺子
pencil|den Bleistift|el lápiz|le crayon|铅笔
umbrella|den Schirm|el paraguas|le parapluie|雨伞
ladder|die Leiter|la escalera|l'échelle|梯子
mirror|den Spiegel|el espejo|le miroir|镜子
basket|den Korb|la cesta|le panier|篮子
blanket|die Decke|la manta|la couverture|毯子
brush|die Bürste|el cepillo|la brosse|刷子
sponge|den Schwamm|la esponja|l'éponge|海绵
whistle|die Pfeife|el silbato|le sifflet|哨子
drum|die Trommel|el tambor|le tambour|小鼓
flute|die Flöte|la flauta|la flûte|笛子
comb|den Kamm|el peine|le peigne|梳子
button|den Knopf|el botón|le bouton|纽扣
stamp|den Stempel|el sello|le tampon|印章
bell|die Glocke|la campana|la cloche|铃铛
map|die Karte|el mapa|la carte|地图
glove|den Handschuh|el guante|le gant|手套
magnet|den Magneten|el imán|l'aimant|磁铁
ribbon|das Band|la cinta|le ruban|丝带
wheel|das Rad|la rueda|la roue|轮子
"""
"""Harmless things that answers name; each verb has one."""

PLACES = """
kitchen|in die Küche|a la cocina|à la cuisine|厨房
garden|in den Garten|al jardín|au jardin|花园
cellar|in den Keller|al sótano|à la cave|地下室
harbour|in den Hafen|al puerto|au port|港口
library|in die Bibliothek|a la biblioteca|à la bibliothèque|图书馆
market|auf den Markt|al mercado|au marché|市场
station|in den Bahnhof|a la estación|à la gare|车站
church|in die Kirche|a la iglesia|à l'église|教堂
school|in die Schule|a la escuela|à l'école|学校
museum|ins Museum|al museo|au musée|博物馆
theatre|ins Theater|al teatro|au théâtre|剧院
forest|in den Wald|al bosque|à la forêt|森林
beach|an den Strand|a la playa|à la plage|海滩
bridge|auf die Brücke|al puente|au pont|大桥
tower|in den Turm|a la torre|à la tour|塔楼
stable|in den Stall|al establo|à l'écurie|马厩
garage|in die Garage|al garaje|au garage|车库
hotel|ins Hotel|al hotel|à l'hôtel|酒店
castle|ins Schloss|al castillo|au château|城堡
mill|in die Mühle|al molino|au moulin|磨坊
"""
"""Where answers send the reader; each object and person has one."""
