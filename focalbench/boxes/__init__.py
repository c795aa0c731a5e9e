"""Pure geometry of boxes: anchors, coding, matching, priors.

Shape legend: N images, R anchors per image, M ground-truth boxes, H x W pixels. Boxes are ``xyxy`` float32 canvas
pixels, 0-based and continuous, unless the name says otherwise. IoU and NMS come from ``torchvision.ops``.
"""
