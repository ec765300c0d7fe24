"""A node for the test in a virtual machine: it loads only where its Python package came along."""

import gguf


class VMNode:
    """Names what it needs."""

    RETURN_TYPES = ("STRING",)
    FUNCTION = "name"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, object]]:
        return {"required": {}}

    def name(self) -> tuple[str]:
        """The package's name."""
        return (gguf.__name__,)


NODE_CLASS_MAPPINGS = {"VMNode": VMNode}
