"""The terms of the loss, one small class each, behind the interface of `base`."""
