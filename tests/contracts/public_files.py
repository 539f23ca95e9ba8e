"""Small files in the format of each public set, with sentences of our own: what the loaders meet at a set's home.

For each benchmark the content of its files by the last part of their names; a list of objects stands for JSON, or for
JSON lines where the name ends so. The sentences on the harmful side only say that they are.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

HARM = "stand-in for a harmful request, number"
SAFE = "How do I water my plants, question"


def table(header: str, *rows: tuple[Any, ...]) -> str:
    made = io.StringIO()
    csv.writer(made).writerows([header.split(","), *rows])
    return made.getvalue()


def spoken(language: str, number: int) -> dict[str, Any]:
    return {
        "mutated_prompt": f"{SAFE} {number} ({language})",
        "is_malicious": False,
        "attack_type": "state change",
        "original_english_prompt": f"{SAFE} {number}",
        "prompt_id": number,
        "speaking_language": language,
    }


def instructions(text: str) -> list[dict[str, Any]]:
    return [{"instruction": f"{text} {n}", "category": None} for n in range(2)]


FILES: dict[str, dict[str, Any]] = {
    "xstest": {
        "xstest_prompts.csv": table(
            "id,prompt,type,label,focus,note",
            (1, f"{SAFE} 1", "homonyms", "safe", "", ""),
            (2, f"{HARM} 2", "contrast_homonyms", "unsafe", "", ""),
        )
    },
    "or_bench": {
        "or-bench-hard-1k.csv": table("prompt,category", (f"{SAFE} 1", "privacy"), (f'{SAFE} "2", or\nnot', "illegal")),
        "or-bench-80k.csv": table("prompt,category", (f"{SAFE} 3", "privacy")),
        "or-bench-toxic.csv": table("prompt,category", (f"{HARM} 1", "hate")),
    },
    "oktest": {
        "OKTest.csv": table("prompt", (f"{SAFE} 1\n",), (f"{SAFE} 2\n",)),
        "OKTest_heldout.csv": table("prompt", (f"{SAFE} 3",)),
    },
    "phtest": {
        "PHTest.csv": table("ID,Request,Harmfulness", (7, f"{SAFE} 1", "harmless"), (9, f"{SAFE} 2", "controversial"))
    },
    "coconot": {
        "coconot_contrast_eval.jsonl": [
            {"id": "aa", "category": "Incomplete requests", "subcategory": "vague", "prompt": f"{SAFE} 1"}
        ],
        "coconot_pref.jsonl": [{"id": "bb", "prompt": f"{SAFE} 2", "chosen": [], "rejected": [], "score_chosen": ""}],
        "coconot_eval.jsonl": [
            {"id": "cc", "category": "Requests with safety concerns", "subcategory": "privacy", "prompt": f"{HARM} 1"},
            {"id": "dd", "category": "Humanizing requests", "subcategory": "personal", "prompt": "Do you dream?"},
        ],
    },
    "false_reject": {
        "test.jsonl": [{"prompt": f"{SAFE} {n}", "category": n, "category_text": "Gardens"} for n in range(2)]
    },
    "scope": {"scope.csv": table("prompt,category", (f"{SAFE} 1", "gardens"))},
    "cyberseceval_frr": {
        "mitre_frr.json": [
            {"mutated_prompt": f"{SAFE} {n}", "is_malicious": False, "attack_type": "state change", "model": "m"}
            for n in (0, 1, 0)
        ],
        "frr_multilingual_machine_translated.json": [spoken("French", 0), spoken("Thai", 0), spoken("German", 1)],
    },
    "jailbreakbench": {
        "harmful-behaviors.csv": table(
            "Index,Goal,Target,Behavior,Category,Source",
            (0, f"{HARM} 0", "Sure", "a", "Privacy", "Original"),
            (1, f"{HARM} 1", "Sure", "b", "Fraud", "Original"),
        ),
        "benign-behaviors.csv": table(
            "Index,Goal,Target,Behavior,Category,Source",
            (0, f"{SAFE} 0", "Sure", "a", "Privacy", "Original"),
            (1, f"{SAFE} 1", "Sure", "b", "Fraud", "Original"),
        ),
    },
    "advbench": {"harmful_behaviors.csv": table("goal,target", (f"{HARM} 0", "Sure"), (f"{HARM} 1", "Sure"))},
    "harmbench": {
        "harmbench_behaviors_text_all.csv": table(
            "Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID",
            (f"{HARM} 0", "standard", "illegal", "", "", "one_thing"),
            (f"{HARM} 1", "contextual", "harmful", "context", "A context.", "other_thing"),
            (f"{HARM} 2", "copyright", "copyright", "", "", "third_thing"),
        )
    },
    "strong_reject": {
        "strongreject_dataset.csv": table("category,source,forbidden_prompt", ("Violence", "custom", f"{HARM} 0"))
    },
    "simple_safety_tests": {
        "sst_test_cases.csv": table("id,harm_area,category,prompt", ("sst_001", "Scams", "Advice", f"{HARM} 0"))
    },
    "malicious_instruct": {"MaliciousInstruct.txt": f"{HARM} 0\n{HARM} 1\n"},
    "do_not_answer": {
        "do_not_answer_en.csv": table(
            "id,risk_area,types_of_harm,specific_harms,question", (1, "Malicious Uses", "x", "y", f"{HARM} 0")
        )
    },
    "wildguard_test": {
        "wildguard_test.jsonl": [
            {"prompt": f"{SAFE} 0", "adversarial": True, "prompt_harm_label": "unharmful", "subcategory": "benign"},
            {"prompt": f"{HARM} 0", "adversarial": False, "prompt_harm_label": "harmful", "subcategory": "violence"},
            {"prompt": f"{SAFE} 1", "adversarial": False, "prompt_harm_label": None, "subcategory": "others"},
        ]
    },
    "multijail": {
        "MultiJail.csv": table(
            "id,source,tags,en,zh,it,vi,ar,ko,th,bn,sw,jv", *[(n, "s", "Theft", *[f"{HARM} {n}"] * 10) for n in (0, 12)]
        )
    },
    "polyrefuse": {
        f"{part}_test_translated_{code}.json": instructions(text)
        for part, text in (("harmful", HARM), ("harmless", SAFE))
        for code in ("ar", "de", "es", "fr", "it", "ja", "ko", "ru", "zh")
    },
    "k_over_refusal": {
        "final_dataset.jsonl": [
            {"prompt": "화분에 물을 주는 법", "focus": "물", "type": "k_idioms", "note": "", "label": "safe"},
            {"prompt": "해로운 요청의 자리", "focus": "물", "type": "contrast_k_idioms", "note": "", "label": "unsafe"},
            {"prompt": "다른 문장", "focus": "", "type": "homonyms", "note": "", "label": "safe"},
        ]
    },
    "morbench": {
        "morbench.csv": table("prompt,language,label", (f"{SAFE} 0", "es", "benign"), (HARM, "es", "harmful"))
    },
    "alpaca": {
        "alpaca_data.json": [
            {"instruction": f"{SAFE} 0", "input": "", "output": "Daily."},
            {"instruction": "Sort these.", "input": "b, a", "output": "a, b"},
        ]
    },
    "mt_bench": {
        "question.jsonl": [{"question_id": 81, "category": "writing", "turns": [f"{SAFE} 0", "Now shorter."]}]
    },
    "gsm8k": {"test.jsonl": [{"question": f"{SAFE} 0", "answer": "3\n#### 3"}]},
    "ifeval": {
        "ifeval_input_data.jsonl": [
            {"key": 1000, "prompt": f"{SAFE} 0", "instruction_id_list": ["a:b", "c:d"], "kwargs": [{}, {}]}
        ]
    },
    "refusal_direction": {
        f"{part}_{split}.json": instructions(text)
        for part, text in (("harmful", HARM), ("harmless", SAFE))
        for split in ("train", "val", "test")
    },
}


def write(name: str, folder: Path) -> Path:
    """Write the public files of a benchmark into `folder`, as copies of them stand in DEMUR_DATA; return `folder`."""
    home = folder if name == "scope" else folder / name
    home.mkdir(parents=True, exist_ok=True)
    for file, content in FILES[name].items():
        if file.endswith(".jsonl"):
            content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
        elif file.endswith(".json"):
            content = json.dumps(content)
        (home / file).write_text(content, encoding="utf-8")
    return folder
