"""zeromodels: functional subclasses, with detectors of layers in layers."""

from ..cases import Package

package = Package("zeromodels", "zeromodels")


@package.model()
def efficientdet():
    from zeromodels.models.efficientdet.efficientdet_model import EfficientDetModel

    return EfficientDetModel(
        image_size=128, num_classes=3, fpn_num_filters=16, fpn_cell_repeats=1, box_class_repeats=1
    )


@package.model()
def regnet():
    from zeromodels.models.regnet.regnet_model import RegNetImageClassify

    return RegNetImageClassify(16, (16, 32), (1, 2), groups_width=8, image_size=64, num_classes=5)


@package.model()
def res2net():
    from zeromodels.models.res2net.res2net_model import Res2NetImageClassify

    return Res2NetImageClassify((1, 1, 1, 1), base_width=8, image_size=64, num_classes=5)


@package.model()
def levit():
    from zeromodels.models.levit.levit_model import LevitImageClassify

    return LevitImageClassify(
        64,
        hidden_sizes=(32, 48, 64),
        num_attention_heads=(2, 3, 4),
        depths=(1, 1, 1),
        num_classes=5,
    )
