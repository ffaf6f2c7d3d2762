"""Counts to the accounts of jobs what their joules, and the hardware that they hold, cost in grams. Pure."""

from collections.abc import Iterable, Mapping

from carbon_exporter.model import Component
from carbon_exporter.node.accounts import Account
from carbon_exporter.node.embodied import NOT_COUNTED, Embodied
from carbon_exporter.node.recount import Factors, Recount


class Grams:
    """The location-based grams of joules; beside them the market-based and the embodied ones, where asked for.

    Args:
        market_grams_per_joule: of the power that is bought, PUE included; None: not counted.
        embodied: what the hardware took to make.
    """

    def __init__(self, *, market_grams_per_joule: float | None = None, embodied: Embodied = NOT_COUNTED) -> None:
        self.market_grams_per_joule = market_grams_per_joule
        self.embodied = embodied
        self._recount = Recount()

    def begin(self, factors: Factors, accounts: Mapping[str, Account], now_seconds: float) -> None:
        """Count with `factors` from now on, and put right what they tell anew of the last minutes."""
        self._recount.take(factors, accounts, now_seconds)
        self._factors = factors

    def count(
        self,
        accounts: Mapping[str, Account],
        component: Component,
        spent: Mapping[str, float],
        begin_seconds: float,
        end_seconds: float,
    ) -> None:
        """Add the joules that each job used between two moments to its account, with their grams."""
        basis, grams_per_joule = self._factors.basis, self._factors.mean(begin_seconds, end_seconds)
        columns, market = self._recount.columns(component, begin_seconds, end_seconds), self.market_grams_per_joule
        for name, joules in spent.items():
            account = accounts[name]
            account.post(component, joules, basis, grams_per_joule)
            for column, ratio in columns:
                column[name] = column.get(name, 0.0) + ratio * joules
            if market is not None:
                account.market_grams[component] = account.market_grams.get(component, 0.0) + joules * market

    def count_gpu(self, accounts: Mapping[str, Account], held: Mapping[str, float], seconds: float) -> None:
        """Add what it took to make a GPU, for the share of it that each job held so long."""
        for name, share in held.items():
            if name in accounts:
                accounts[name].embody("gpu", share * seconds * self.embodied.gpu_grams_per_second)

    def count_host(self, accounts: Mapping[str, Account], shares: Mapping[str, float], seconds: float) -> None:
        """Add what it took to make the host without its GPUs, for the share of it that each job had so long."""
        for name, share in shares.items():
            accounts[name].embody("host", share * seconds * self.embodied.host_grams_per_second)

    def forget(self, names: Iterable[str]) -> None:
        """Drop jobs whose accounts are closed."""
        self._recount.forget(names)

    def forget_all(self) -> None:
        """Begin anew, with accounts of an earlier process."""
        self._recount = Recount()
