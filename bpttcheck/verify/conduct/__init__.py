"""What methods do beside returning gradients: aliasing, layouts, repetition, unwritten memory."""
