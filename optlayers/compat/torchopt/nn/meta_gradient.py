"""TorchOpt's modules with meta-parameters: :class:`optlayers.ImplicitModule` with its further names."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from ....implicit import ImplicitModule


class MetaGradientModule(ImplicitModule):
    """A module that tells its parameters from meta-parameters: tensors and modules that ``__init__`` was given."""

    def register_meta_parameter(self, name: str, param: Tensor | None) -> None:
        """Hold a tensor as a meta-parameter; None is an attribute."""
        if param is None:
            setattr(self, name, None)
        else:
            super().register_meta_parameter(name, param)

    def register_meta_module(self, name: str, meta_module: nn.Module | None) -> None:
        """Hold a module whose parameters are meta-parameters; None is an attribute."""
        if meta_module is None:
            setattr(self, name, None)
        else:
            super().register_meta_module(name, meta_module)

    def add_meta_module(self, name: str, meta_module: nn.Module | None) -> None:
        """The same as :meth:`register_meta_module`."""
        self.register_meta_module(name, meta_module)

    def named_meta_parameters(self, prefix: str = "", recurse: bool = True) -> Iterator[tuple[str, Tensor]]:
        """The meta-parameters and their names; with `recurse` those in modules, too."""
        lead = f"{prefix}." if prefix else ""
        for name, parameter in super().named_meta_parameters():
            if recurse or name in self._meta_names:
                yield lead + name, parameter

    def meta_parameters(self, recurse: bool = True) -> Iterator[Tensor]:
        """The meta-parameters; with `recurse` those in modules, too."""
        for _, parameter in self.named_meta_parameters(recurse=recurse):
            yield parameter

    def named_meta_children(self) -> Iterator[tuple[str, nn.Module]]:
        """The modules that are meta, and their names."""
        for name, child in self.named_children():
            if name in self._meta_names:
                yield name, child

    def meta_children(self) -> Iterator[nn.Module]:
        """The modules that are meta."""
        for _, child in self.named_meta_children():
            yield child

    def named_meta_modules(self, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
        """The modules that are meta and all modules in them, with their names."""
        lead, seen = f"{prefix}." if prefix else "", set()
        for name, child in self.named_meta_children():
            yield from child.named_modules(memo=seen, prefix=lead + name)

    def meta_modules(self) -> Iterator[nn.Module]:
        """The modules that are meta and all modules in them."""
        for _, module in self.named_meta_modules():
            yield module


class ImplicitMetaGradientModule(MetaGradientModule):
    """:class:`optlayers.ImplicitModule`: ``class Inner(ImplicitMetaGradientModule, linear_solve=...)``."""
