"""Commands for people, beside the stages."""
