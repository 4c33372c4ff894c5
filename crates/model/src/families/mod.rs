//! A page per family: what its `config.json` means, and how it calls its tensors.
