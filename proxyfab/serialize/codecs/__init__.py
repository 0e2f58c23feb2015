"""One small module for each family of types, imported when the first of its objects, or of its payloads, is met."""
