"""Export a timm model as ONNX, torch.export or AOTInductor files, checked and described."""
