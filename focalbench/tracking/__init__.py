"""What a trial leaves behind while it trains: metrics.jsonl (the source of truth), status and result files,
TensorBoard's event files.

A tracker receives scalars, uint8 images (H, W, 3) and scored hits (D detections of one class) and stores them;
``MultiTracker`` hands each to several. ``records`` loads in milliseconds and needs no torch; ``tensorboard`` imports
torch's writer. Tags are contract.md's: ``train/loss``, ``val/mAP``, ``AP/<class>`` and so on. Nothing here decides
when or what to log.
"""
