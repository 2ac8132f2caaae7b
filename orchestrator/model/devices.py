"""What the Keras backend of this process can compute on."""


def describe_backend() -> str:
    """Returns the backend's name, version and devices in one line; imports it.

    Raises:
        ImportError: the backend is not installed.
    """
    import keras

    name = keras.backend.backend()
    devices = keras.distribution.list_devices("gpu") or []
    shown = f"{len(devices)} GPU" if devices else "no GPU: it computes on the CPU"
    return f"{name} (Keras {keras.__version__}), {shown}"
