# Mainline Ollama on Vulkan (Mesa's ANV): Ollama has no SYCL back end, and a fork built with DPC++ is what
# broke in the old flake.
{ ollama, acceleration ? "vulkan" }:
ollama.override { inherit acceleration; }
