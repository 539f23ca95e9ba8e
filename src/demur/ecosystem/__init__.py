"""demur inside other programs: Inspect AI, lm-evaluation-harness, trl.

| file | what it is |
|---|---|
| `inspect_entry` | what Inspect finds by its entry point: the tasks, the scorer, the model provider |
| `inspect_tasks`, `inspect_model`, `gathering` | what stands behind it |
| `lm_eval` | registers the model `demur` with lm-eval; `python -m demur.ecosystem.lm_eval` is lm-eval with it |
| `lm_eval_tasks`, `lm_eval_model` | prompts and judge as lm-eval calls them; the model |
| `task_folder` | writes benchmarks as a folder of lm-eval tasks |
| `trl_rows` | examples as rows that trl takes |
| `judging` | one answer, judged as `demur measure` judges it |
"""
