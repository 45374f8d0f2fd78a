"""SPP-net object detection."""
