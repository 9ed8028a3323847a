"""kyolo: detectors from YOLOv5 to YOLO26."""

from ..cases import Package

package = Package("kyolo", "kyolo")


def yolo(name, **arguments):
    import kyolo

    return getattr(kyolo, name)(nc=3, input_shape=(64, 64, 3), weights=None, **arguments)


@package.model()
def yolov8():
    return yolo("yolov8n")


@package.model()
def yolov10():
    return yolo("yolov10n")


@package.model()
def yolo12():
    return yolo("yolo12n")


@package.model()
def yolo26():
    return yolo("yolo26n")
