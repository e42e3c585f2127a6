"""Image sets from archives, arrays and folders, their splits, and augmentation."""
