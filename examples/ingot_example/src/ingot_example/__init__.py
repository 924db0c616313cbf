"""An embedding and an objective that Ingot finds through entry points."""
