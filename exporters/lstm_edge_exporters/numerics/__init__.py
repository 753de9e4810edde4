"""Cases, references, noise floors and verification: what export, lift, quantization and validate stand on."""
