"""Pictures: axes and looks that all charts share, and how a chart becomes SVG, PNG or PDF."""
