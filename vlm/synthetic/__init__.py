"""Made data: drawn people with exact labels, photos with one thing changed, and the language for both."""
