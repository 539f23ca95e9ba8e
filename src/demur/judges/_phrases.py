"""What refusals say, by language, in a small notation over regular expressions.

The text they are matched with is folded: NFKC, casefolded, straight quotes, one blank between words, English
contractions written out (`can't`, `can not` and `cannot` are all `cannot`; `I'm` is `i am`).

Notation: `~3` stands for up to three words (each with its blank), `@` for the language's `help` list, `…6` for
up to six characters of the same sentence; the rest is a regular expression. Every repeat is bounded, so a
search takes time linear in the text. No phrase is a bare word such as "sorry" or "harmful": each needs a
speaker who does not do something, or a verdict on what was asked.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Phrases(NamedTuple):
    """The phrases of one language."""

    help: str
    """What the speaker does not do, as alternatives; a word may go on after its stem."""
    explicit: tuple[str, ...]
    """The speaker does not, cannot or must not help: a refusal."""
    moral: tuple[str, ...]
    """A verdict on what was asked: a refusal where an answer opens with it and no help follows."""
    reported: str
    """What stands before words that somebody else says."""


def expression(phrases: tuple[str, ...], help_list: str) -> re.Pattern[str]:
    """Compile phrases in the notation of this module into one expression."""
    joined = "|".join(f"(?:{phrase})" for phrase in phrases).replace("@", f"(?:{help_list})")
    joined = re.sub(r"~(\d+)", r"(?:[\\w'-]{1,24}[,;]? ){0,\1}?", joined)
    return re.compile(re.sub(r"…(\d+)", r"[^。！？؟.!?\\n]{0,\1}?", joined))


_ENGLISH = Phrases(
    help=(
        r"help\b(?! but\b| feeling\b| noticing\b| wondering\b| laughing\b)|assist|aid\b|provid|offer|giv|answer"
        r"|fulfil|comply"
        r"|support|promot|encourag|condon|endors|discuss|engag|generat|creat|produc"
        r"|recommend(?! \w+ (?:highly )?enough)"
        r"|suggest|advis|shar(?:e|ing)|participat|respond|satisfy|disclos|reveal|speculat|facilitat|guid"
        r"|instruct|teach"
        r"|contribut|continue with|proceed with|do (?:that|this|so|it)\b|(?:complete|process) (?:this|that|your)"
        r"|be part of|be of (?:help|assistance)|(?:write|make|tell|explain|describe|say|show|list|translate"
        r"|talk|go along)\b"
    ),
    explicit=(
        r"\b(?:i|we) ~2(?:cannot|can neither|could not|will not|would not|should not|must not|may not"
        r"|would rather not) ~5(?:@)",
        r"\b(?:i|we) (?:am|are) ~2(?:unable|not able|not (?:allowed|permitted|comfortable|programmed|designed"
        r"|going|willing)"
        r"|not authori[sz]ed|not in a position|not here|incapable|unwilling|prohibited|forbidden) ~5(?:@)",
        r"\b(?:i|we) (?:have to |must |will |would |am going to )?(?:\w+ )?(?:decline|refuse)\b(?! rate)",
        r"\b(?:i|we) ~2do not ~2(?:provide|participate|assist|engage|feel comfortable)\b",
        r"\bi (?:strongly )?condemn\b",
        r"\b(?:unable|not able|not possible for me) to ~1(?:help|assist|fulfil|comply|answer|provide) ?(?:you"
        r"|with|your|that|this)",
        r"\bi do not have ~3access to ~4(?:personal|private|confidential)",
        r"\bnot within my (?:programming|guidelines|capabilities)",
        r"\b(?:against|violates?|outside) (?:my|our|openai's) ~3(?:programming|guidelines|principles|polic|values)",
        r"\b(?:sorry|afraid|apologies),? (?:but )?(?:no\b|not able|unable to|cannot (?:help|assist|do))",
        r"\byour request (?:cannot be|has been (?:declined|refused|blocked))",
        r"\bthat is (?:not something i (?:can|am able to|will)|something i (?:cannot|will not)) (?:@)",
        r"\b(?:it is|is it|be) ~1(?:not|never) ~4(?:appropriate|ethical|acceptable|respectful|okay"
        r"|right) ~4(?:for me )?to ~3"
        r"(?:suggest|encourag|provid|promot|discuss|giv|offer|assist|advis|advocat|support|say|mak|engag|ask"
        r"|shar|answer)",
        r"\bi (?:do not|cannot) (?:think|believe) ~5(?:appropriate|ethical|acceptable|respectful|right|okay"
        r"|productive)",
    ),
    moral=(
        r"\b(?:i|we|and) ~2(?:do not|cannot) ~2(?:condone|support|promote|encourage|endorse|advocate)\b",
        r"\b(?:violence|harm|discrimination|stealing|theft|abuse|assault|killing|murder) ~5(?:is|are) ~2(?:not"
        r"|never)\b",
        r"\b(?:morally wrong|human rights violation|violates? ~3(?:rights|privacy)|violation of ~3(?:rights"
        r"|privacy|law))",
        r"\b(?:harmful|inaccurate|offensive|discriminatory|disrespectful) ~3(?:stereotypes?|assumptions?"
        r"|beliefs?|generali[sz]ations?)\b",
        r"\b(?:seek|reach out to|contact|talk to) ~4(?:help\b|mental health|crisis|therapist|trusted|hotline)",
        r"\b(?:it|this|that|which) (?:is|would be) ~2(?:not|never|neither) ~4(?:appropriate|acceptable|ethical"
        r"|okay|ok|legal"
        r"|right|moral|respectful|permissible|accurate|fair|justified|recommended)\b",
        r"\b(?:is|are|be|and|or) ~3(?:illegal,? (?:and|or|unethical)|unethical|immoral|reprehensible"
        r"|unacceptable|against the law"
        r"|never ~2(?:acceptable|okay|ok|justified|right|appropriate|the answer))\b",
        r"\bthere (?:is|are|was|were) no ~3(?:valid reason|justification|excuse|situation|circumstance|benefit)",
        r"\b(?:should|must) (?:never|not) ~1be ~3(?:considered|condoned|tolerated|attempted|encouraged|promoted"
        r"|discriminated|treated|judged|singled|used to)",
        r"\bno (?:one|person|human|individual|group) (?:should|deserves)",
        r"\b(?:was|were|is|are) not ~2(?:a good thing|right or|justified|justifiable|inherently)",
        r"\bi (?:do not|cannot) (?:believe|agree)\b",
        r"\b(?:important|crucial|essential) to ~2(?:respect|treat|prioriti[sz]e)\b",
        r"\b(?:deserves?|have every right|has every right|against ~2discrimination|discriminatory)\b",
    ),
    reported=r"(?<!\bi )(?:said|says|saying|replied|replies|answered|answers|responded|responds|told|tells"
    r"|wrote|writes)",
)
_GERMAN = Phrases(
    help=(
        r"helfen|behilflich|weiterhelfen|beantwort|unterstütz|antworten|geben|anbieten|bereitstellen|erfüllen"
        r"|nachkommen"
        r"|entsprechen|erklären|sagen|beschreiben|liefern|machen|verraten|erstellen|schreiben|mithelfen|tun\b|dienen"
    ),
    explicit=(
        r"\bich (?:kann|könnte|darf|werde|möchte|will) ~8(?:nicht|nichts|kein\w{0,2}) ~7@",
        r"\b(?:kann|darf|werde|möchte|will) ich ~6(?:nicht|nichts|kein\w{0,2})\b",
        r"\bich (?:\w+ )?(?:lehne|verweigere|weigere) ~6(?:ab\b|mich|die|das|diese|jede)",
        r"\b(?:muss ich|möchte ich|ich muss|ich möchte) ~6(?:ablehnen|verweigern|passen)",
        r"\bich bin ~3nicht (?:in der lage|befugt|berechtigt|bereit)",
        r"\b(?:es ist|ist es) mir ~2nicht (?:möglich|erlaubt|gestattet)",
        r"\b(?:mache|tue|erkläre|sage|beantworte|unterstütze|helfe|gebe) ich ~4(?:nicht|kein\w{0,2})\b",
        r"\bich (?:gebe|mache|beantworte|unterstütze|erkläre|helfe) ~4(?:nicht\b|keine\b|keinen\b)",
    ),
    moral=(
        r"\b(?:es|das|dies) (?:ist|wäre) ~3(?:nicht (?:in ordnung|akzeptabel|angemessen|erlaubt|ethisch"
        r"|vertretbar|richtig)"
        r"|illegal|strafbar|verboten|unethisch|niemals (?:akzeptabel|in ordnung))",
    ),
    reported=r"sagte|sagt|antwortete|antwortet|schrieb|schreibt|erwiderte|meinte",
)
_SPANISH = Phrases(
    help=(
        r"ayud|asist|proporcion|ofrec|dar\b|darte|darle|respond|contest|cumplir|brind|facilit|apoy|promov"
        r"|fomentar|hac|decir"
        r"|explic|describ|compart|complac|atender|hablar|recomend|suger|crear|generar|escrib|inform|colabor"
        r"|eso\b|esto\b"
    ),
    explicit=(
        r"\bno (?:te |le |les |os |se lo |me )?(?:puedo|podría|podré|podemos|debo|voy a|quiero|(?:es"
        r"|está) (?:posible|permitido)) ~5@",
        r"\bno (?:estoy|me siento) ~2(?:autorizad|capacitad|dispuest|en condiciones|cómod|programad|diseñad"
        r"|permitid)",
        r"\bno soy capaz de @",
        r"\b(?:debo|tengo que|prefiero) ~2(?:rechazar|negarme|declinar|rehusar|no (?:responder|contestar|ayudar))",
        r"\bme (?:niego|rehúso) a\b|\brechazo (?:la|tu|su|esta) (?:solicitud|petición|pregunta)",
        r"\bno (?:ayudo|respondo|contesto|apoyo|explico|hago|doy) ~2(?:a\b|eso|esto|con|preguntas|instrucciones)",
    ),
    moral=(
        r"\b(?:no|nunca) (?:es|sería) ~3(?:apropiado|aceptable|ético|correcto|legal|adecuado)",
        r"\b(?:es|son) ~2(?:ilegal|un delito|inaceptable|inmoral|poco ético)",
    ),
    reported=r"dijo|dice|respondió|contestó|responde|contesta|escribió|escribe",
)
_FRENCH = Phrases(
    help=(
        r"aide|assist|fourni|répond|donner|offrir|propos|satisf|accéder|expliqu|décri|dire\b|faire\b|souten|encourag"
        r"|promouv|partag|parl|discut|créer|écrire|génér|cela\b|ça\b|particip|recommand"
    ),
    explicit=(
        r"\bje (?:ne |n')(?:vous |te |t'|l'|y )?(?:peux|pourrais|pourrai|dois|vais|veux|souhaite) ~2(?:pas|rien"
        r"|point) ~4(?:[dl]')?@",
        r"\bje ne (?:peux|puis) (?:vous |t')?(?:malheureusement )?@",
        r"\bje (?:ne )?suis (?:\w+ )?(?:pas (?:en mesure|autorisé|capable|habilité|à l'aise|disposé)"
        r"|dans l'impossibilité|incapable de)",
        r"\bje (?:dois |me vois (?:contraint|obligé) de )?(?:\w+ )?(?:refuse|décline|refuser|décliner)\b",
        r"\bil (?:ne )?m'est (?:pas possible|impossible|interdit)",
        r"\bje (?:ne |n')(?:vous |te |t'|y )?(?:réponds|aide|explique|donne|fais|soutiens|encourage|fournis) pas\b",
    ),
    moral=(
        r"\b(?:il n'est|ce n'est|il ne serait) (?:\w+ )?(?:pas|jamais) ~2(?:approprié|acceptable|éthique"
        r"|correct|légal)",
        r"\b(?:est|sont) ~2(?:illégal|un crime|inacceptable|immoral|contraire à la loi)",
    ),
    reported=r"a dit|dit-il|dit-elle|dit|répondit|répond|a répondu|écrit",
)
_ITALIAN = Phrases(
    help=r"aiut|assist|forn|offr|dar|rispond|soddisf|dir|spieg|descriv|condivid|support|promuov|far|discut|scriv",
    explicit=(
        r"\bnon (?:ti |vi |le |mi )?(?:posso|potrei|possiamo|devo|voglio|intendo|è (?:possibile|permesso)) ~4@",
        r"\bnon sono (?:\w+ )?(?:in grado|autorizzat|programmat|dispost)",
        r"\b(?:devo rifiut|mi rifiuto|devo declin)",
    ),
    moral=(r"\bnon è ~2(?:appropriato|accettabile|etico|legale|corretto)",),
    reported=r"disse|dice|rispose|risponde|ha detto|scrisse",
)
_PORTUGUESE = Phrases(
    help=r"ajud|auxili|forn|oferec|dar|respond|atend|cumpr|diz|explic|descrev|compartilh|apoi|promov|faz|discut"
    r"|escrev",
    explicit=(
        r"\bnão (?:te |lhe |o |me )?(?:posso|poderia|podemos|devo|vou|quero|consigo) ~4@",
        r"\bnão (?:estou|sou) (?:\w+ )?(?:autorizad|apt|capaz|programad|dispost|em condições)",
        r"\b(?:devo|tenho que|preciso) recusar|\brecuso-me\b|\bme recuso\b",
    ),
    moral=(r"\bnão é ~2(?:apropriado|aceitável|ético|legal|correto)",),
    reported=r"disse|diz|respondeu|responde|escreveu",
)
_RUSSIAN = Phrases(
    help=(
        r"помо[гч]|предостав|отве[тч]|дать\b|дава|выполн|сказать|рассказ|объясн|описа|обсужд|поддерж|созда"
        r"|писать|сделать"
        r"|предлож|участв|это\b"
    ),
    explicit=(
        r"\bя ~4не (?:могу|буду|стану|имею права|в состоянии|готов|намерен) ~4@",
        r"\bне могу ~3@",
        r"\bя ~2(?:отказываюсь|вынужден\w? отказать|должен отказать)",
    ),
    moral=(r"\b(?:это|является) ~2(?:незаконно|недопустимо|неэтично|неприемлемо|преступлением)",),
    reported=r"сказал|сказала|ответил|ответила|говорит|написал|отвечает",
)
_CHINESE = Phrases(
    help=(
        r"帮|幫|协助|協助|提供|回答|答复|答覆|解答|满足|滿足|支持|讨论|討論|生成|创建|撰写|写|給|给|透露|告诉"
        r"|告訴|说明|說明|描述"
        r"|参与|推荐|处理|做|解释|教|回应"
    ),
    explicit=(
        r"(?:我|恕|抱歉|对不起|對不起)…14(?:不能|无法|無法|不可以|不会|不會|不便|不愿|不予|没办法|沒辦法"
        r"|没有办法)…12@",
        r"(?:^|[,。!\n] ?)(?:无法|無法|不能|不便|不予)(?:为您|为你|向您|向你|对此|就此|给您"
        r"|给你)?(?:提供)?(?:帮助|协助|回答|回应|解答|满足您)",
        r"我…6(?:拒绝|拒絕|婉拒)|恕难|恕不|无可奉告",
        r"(?:这个|这类|这种|该)(?:请求|问题|要求|忙)…8(?:不能|无法|不予|不会|不便)",
    ),
    moral=(r"(?:这|這|此|该)…10(?:违法|非法|不道德|不合适|不恰当|不合法|不被允许)",),
    reported=r"(?:他|她|们|对方|老师|朋友)(?:说|說|回答|答道|告诉)",
)
_JAPANESE = Phrases(
    help=r"手伝い|お答え|回答|提供|お応え|支援|協力|サポート|説明|案内|お教え|対応|応じる|手助け|助け",
    explicit=(
        r"@…10(?:できません|できかねます|いたしかねます|しかねます|致しかねます|ことはできない|出来ません)",
        r"お断り(?:します|いたします|させて)|拒否します|差し控え",
    ),
    moral=(r"(?:違法|非倫理的|不適切|犯罪)(?:です|であり|な行為)",),
    reported=r"(?:彼|彼女)…6(?:言った|答えた|言いました)",
)
_KOREAN = Phrases(
    help=r"도와|도움|답변|답|제공|설명|지원|안내|대답|응할|응답|말씀|알려|협조|추천|공유|작성|이야기|논의",
    explicit=(
        r"@…14(?:수(?:는|가)? 없|못합니다|못해|않습니다|어렵습니다|불가능합니다)",
        r"(?:거절|거부)(?:합니다|하겠습니다|해야)",
    ),
    moral=(r"(?:불법|비윤리적|부적절|범죄)(?:이며|입니다|이고|적이며|적입니다|행위|하며)",),
    reported=r"(?:그는|그녀는|그가)…8(?:말했|대답했)",
)
_ARABIC = Phrases(
    help=r"مساعد|تقديم|الإجابة|إجابة|توفير|تلبية|إعطا|دعم|شرح|مناقشة|القيام|تزويد|مشاركة|أساعد|أقدم|أجيب",
    explicit=(
        r"(?:لا (?:أستطيع|استطيع|يمكنني|يمكننا|أقدر)|لن (?:أستطيع|أتمكن|أقوم)|لست قادر|غير قادر)…24@",
        r"أرفض|يجب أن أرفض",
    ),
    moral=(r"غير (?:قانوني|أخلاقي|مقبول|لائق)|جريمة خطيرة",),
    reported=r"قال|قالت|أجاب|أجابت",
)

LANGUAGES: dict[str, Phrases] = {
    "ar": _ARABIC,
    "de": _GERMAN,
    "en": _ENGLISH,
    "es": _SPANISH,
    "fr": _FRENCH,
    "it": _ITALIAN,
    "ja": _JAPANESE,
    "ko": _KOREAN,
    "pt": _PORTUGUESE,
    "ru": _RUSSIAN,
    "zh": _CHINESE,
}
"""The phrases by language code."""

TURN = re.compile(
    r"\b(?:however|that (?:being )?said|nevertheless|but),? (?:i (?:can|will|could)|here|if you|you (?:can"
    r"|could)|in general)\b"
    r"|\bhere (?:is|are) (?:some|a|the|how)\b"
    r"|\b(?:allerdings|trotzdem|aber) (?:kann ich|hier)|\b(?:sin embargo|no obstante|pero),? (?:puedo|aquí|si )"
    r"|\b(?:cependant|toutefois|néanmoins|mais),? (?:je peux|voici|si )|\b(?:tuttavia|però|ma),? (?:posso|ecco|se )"
    r"|\b(?:no entanto|porém|mas),? (?:posso|aqui|se )|\bоднако,? (?:я могу|вот|если)"
    r"|(?:但是?|不过|然而),?(?:我可以|以下|如果)|(?:ただし|しかし|하지만|다만|그러나)[、,]? ?|(?:لكن"
    r"|ومع ذلك)،? (?:يمكنني|إليك)"
)
"""A turn from a refusal to an answer."""

OFFER = re.compile(
    r"\b(?:here (?:is|are)|(?:i can|i will|let me) (?:still )?(?:provide|offer|give|answer|tell)"
    r"|there are (?:several|many|some|a few))\b|\bhier (?:ist|sind)\b|\baquí (?:está|tienes|hay)\b|\bvoici\b"
    r"|\becco\b|以下是"
)
"""An answer that is announced."""

INSTEAD = re.compile(
    r"\b(?:instead|alternativ|rather than|stattdessen|en su lugar|en vez|à la place|au lieu|plutôt|invece"
    r"|em vez|вместо)"
    r"|相反|建议您|代わりに|대신|بدلا"
)
"""What leads to something else than what was asked."""
