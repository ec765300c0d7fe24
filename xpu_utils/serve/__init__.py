"""One address that speaks ComfyUI's own API and gives each prompt to an idle worker."""
