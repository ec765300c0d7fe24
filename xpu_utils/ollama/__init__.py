"""Text from an Ollama server."""
