"""Mining prompts near a refusal boundary: candidates, moderated, selected."""
