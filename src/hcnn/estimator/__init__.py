"""A scikit-learn classifier of images: `HCNNClassifier`."""

try:
    from hcnn.estimator.classifier import HCNNClassifier as HCNNClassifier
except ModuleNotFoundError as error:
    if error.name is None or not error.name.startswith("sklearn"):
        raise
    raise ImportError("hcnn.estimator needs scikit-learn: pip install scikit-learn") from error
