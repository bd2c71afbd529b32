"""The parts that SAM and its medical descendants share: image encoder, prompt encoder, mask decoder, slice protocol."""
