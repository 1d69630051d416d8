"""Programs that use jsoftmax as a practitioner would."""
