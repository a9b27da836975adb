"""Pictures: decoded, resized, cropped."""
