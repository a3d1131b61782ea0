"""Windows are views of the frames, in time order."""

from __future__ import annotations

import pytest
import torch

from pyasd.features.windows import frame_windows, images, repeat_frames


@pytest.mark.parametrize(("count", "mels", "frames"), [(313, 128, 5), (5, 128, 5), (7, 64, 3), (4, 1, 1)])
def test_windows_are_the_frames_one_after_the_other(count: int, mels: int, frames: int) -> None:
    log_mel = torch.randn(count, mels)
    windows = frame_windows(log_mel, frames)
    assert windows.shape == (count - frames + 1, frames * mels)
    for start, window in enumerate(windows):
        assert torch.equal(window, torch.cat(list(log_mel[start : start + frames])))


def test_no_copy_is_made_also_of_part_of_a_larger_tensor() -> None:
    batch = torch.randn(3, 20, 8)
    log_mel = batch[1, 2:]
    windows = frame_windows(log_mel)
    assert windows.stride() == (8, 1)
    assert windows.data_ptr() == log_mel.data_ptr()
    assert windows.untyped_storage().data_ptr() == batch.untyped_storage().data_ptr()


def test_other_strides_give_the_same_values() -> None:
    log_mel = torch.randn(8, 20)
    assert torch.equal(frame_windows(log_mel.T), frame_windows(log_mel.T.contiguous()))


def test_gradients_add_up_over_the_windows() -> None:
    log_mel = torch.zeros(6, 2, requires_grad=True)
    frame_windows(log_mel, 5).sum().backward()
    assert log_mel.grad is not None
    assert log_mel.grad[:, 0].tolist() == [1, 2, 2, 2, 2, 1]


def test_too_few_frames() -> None:
    with pytest.raises(ValueError, match="needs 5 frames, and there are 4"):
        frame_windows(torch.zeros(4, 128))


@pytest.mark.parametrize(("count", "expected"), [(313, 32), (344, 36), (200, 18), (64, 1), (71, 1), (72, 2)])
def test_images_are_views_of_every_eighth_frame_on(count: int, expected: int) -> None:
    log_mel = torch.randn(count, 128)
    views = images(log_mel)
    assert views.shape == (expected, 64, 128)
    assert views.untyped_storage().data_ptr() == log_mel.untyped_storage().data_ptr()
    for number, image in enumerate(views):
        assert torch.equal(image, log_mel[8 * number : 8 * number + 64])


def test_clips_too_short_for_an_image_are_repeated_on_demand() -> None:
    short = torch.randn(7, 3)
    with pytest.raises(ValueError, match="needs 64 frames, and there are 7"):
        images(short)
    assert torch.equal(repeat_frames(short, 16), torch.cat([short, short, short[:2]]))
    assert repeat_frames(short, 7) is short
