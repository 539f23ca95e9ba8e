"""Search over methods and settings for what answers most under the safety floor: `demur tune`.

A study by first answer tokens (`study`, `screening`), then judged answers of the best (`judging`), then one check of
the chosen one on prompts that the search never saw (`job`).
"""
