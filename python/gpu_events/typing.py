"""What is taken where a stream is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, Union

if TYPE_CHECKING:
    from ._native import Stream

__all__ = ["StreamLike", "SupportsCudaStream", "SupportsCudaStreamAttribute", "SupportsHandle", "SupportsPtr"]


class SupportsCudaStream(Protocol):
    """The protocol of cuda.core, which CuPy and others have as well."""

    def __cuda_stream__(self) -> tuple[int, int]:
        """The protocol's version, and the CUstream."""
        ...


class SupportsCudaStreamAttribute(Protocol):
    """PyTorch's streams."""

    @property
    def cuda_stream(self) -> int:
        """The CUstream."""
        ...


class SupportsPtr(Protocol):
    """CuPy's streams."""

    @property
    def ptr(self) -> int:
        """The CUstream."""
        ...


class SupportsHandle(Protocol):
    """Numba's streams."""

    @property
    def handle(self) -> Any:
        """The CUstream, as a ctypes.c_void_p."""
        ...


StreamLike = Union["Stream", SupportsCudaStream, SupportsCudaStreamAttribute, SupportsPtr, SupportsHandle]
