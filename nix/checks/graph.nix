# Text to image in ComfyUI's API format, small enough for a CPU.
let
  node = class_type: inputs: { inherit class_type inputs; };
  text = text: node "CLIPTextEncode" { inherit text; clip = [ "checkpoint" 1 ]; };
in
{
  checkpoint = node "CheckpointLoaderSimple" { ckpt_name = "sd15-tiny.safetensors"; };
  positive = text "a lighthouse at dusk";
  negative = text "blurry";
  latent = node "EmptyLatentImage" { width = 64; height = 64; batch_size = 1; };
  sampler = node "KSampler" {
    model = [ "checkpoint" 0 ];
    positive = [ "positive" 0 ];
    negative = [ "negative" 0 ];
    latent_image = [ "latent" 0 ];
    seed = 7;
    steps = 2;
    cfg = 7;
    sampler_name = "euler";
    scheduler = "normal";
    denoise = 1;
  };
  decode = node "VAEDecode" { samples = [ "sampler" 0 ]; vae = [ "checkpoint" 2 ]; };
  save = node "SaveImage" { images = [ "decode" 0 ]; filename_prefix = "vm"; };
}
