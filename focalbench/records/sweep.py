"""A sweep's folder: which trials there are and what was declared of them (sweep.json), and one table of their results
(results.csv).

A trial is known by the hash that its files name, so that a sweep may grow, and it or its trials may be moved or
renamed: what is done stays done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from focalbench.config.identity import IDENTITY_VERSION
from focalbench.config.sweep import Trial
from focalbench.errors import BusyError, DataError
from focalbench.records.plan import Look, SweepPlan, read_looks, read_plan, require_same
from focalbench.records.results_table import RESULTS, table_row, table_text
from focalbench.records.sweep_lock import require_folder
from focalbench.records.trial import TrialFolder
from focalbench.storage import read_json, remove_unfinished, storage_faults, write_atomically, write_json

_LOCK = ".list.lock"
_LISTED = ("name", "arm", "seed", "hash", "differs")
_KEPT = ("search", "plan", "looks", "plugin_schema")
"""What the list holds beside the trials."""


class SweepFolder:
    """Where a sweep keeps its trials, and the one reader and writer of its list and its table.

    Args:
        path: the folder, which need not exist.
    """

    LIST = "sweep.json"

    def __init__(self, path: Path) -> None:
        self.path = path

    def trial(self, name: str) -> TrialFolder:
        """Returns the folder of the trial ``name``."""
        return TrialFolder(self.path / name)

    def open(self, name: str, trials: Sequence[Trial], *, alone: bool = True, command: str = "") -> None:
        """Lists ``trials``; the folder is made where missing.

        Trials that an earlier form of the sweep gave another name, or whose folders were renamed by hand, are renamed;
        trials that are no longer asked for stay listed.

        Args:
            name: of the experiment.
            alone: whether no other process is at work here: only then may a trial change its name.
            command: that trains what is left; empty leaves the one that is known.

        Raises:
            BusyError: when a trial would have to be renamed under the hands of another process.
            DataError: when the list is not focalbench's, or an older focalbench's.
            StorageError: when the folder cannot be written or is none.
        """
        require_folder(self.path)
        with storage_faults(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        with storage_faults(self.path), self._locked():
            remove_unfinished(self.path)
            known = {row["hash"]: row for row in self.listed()}
            kept = {key: value for key, value in self._document().items() if key in _KEPT}
            folders = self._folders_by_hash(trials)
            for trial in trials:
                if trial.hash in folders:
                    self._rename(folders[trial.hash], trial, alone)
                known[trial.hash] = {key: getattr(trial, key) for key in _LISTED}
            document = {"name": name, "identity": IDENTITY_VERSION, "trials": list(known.values())}
            command = command or self.command()
            document |= {"command": command} if command else {}
            plugin_schema = next((trial.plugin_schema for trial in trials if trial.plugin_schema), {})
            kept |= {"plugin_schema": plugin_schema} if plugin_schema else {}
            write_json(self.path / self.LIST, document | kept)

    def listed(self) -> list[dict[str, Any]]:
        """Returns what the list holds of each trial (name, arm, seed, hash, differs); empty where there is no list.

        Raises:
            DataError: when it is not what focalbench writes.
        """
        return self._rows(self._document())

    def arms(self) -> tuple[str, ...]:
        """Returns the names of all arms in the list, whichever version has written it.

        Raises:
            DataError: when it is not what focalbench writes.
        """
        return tuple(dict.fromkeys(str(row["arm"]) for row in self._rows(self._read())))

    def _rows(self, document: Mapping[str, Any]) -> list[dict[str, Any]]:
        rows = document.get("trials", [])
        if not isinstance(rows, list) or any(not isinstance(row, dict) or set(_LISTED) - row.keys() for row in rows):
            raise self._foreign()
        return rows

    def command(self) -> str:
        """Returns the command that trains what is left; empty where the list does not say.

        Raises:
            DataError: when the list is not what focalbench writes.
        """
        return str(self._document().get("command", ""))

    def plugin_schema(self) -> dict[str, Any]:
        """Returns the JSON Schema of what plugins add to the configurations; empty where they add nothing.

        Raises:
            DataError: when the list is not what focalbench writes.
        """
        schema = self._read().get("plugin_schema", {})
        if not isinstance(schema, dict):
            raise self._foreign()
        return schema

    def proposals(self, space: str) -> list[dict[str, Any]]:
        """Returns the arms that a search over ``space`` has proposed so far, each as the values it sets by key.

        Raises:
            DataError: when the list is not what focalbench writes.
        """
        search = self._document().get("search", {})
        proposals = search.get("proposals", []) if isinstance(search, dict) else None
        if not isinstance(proposals, list) or any(not isinstance(values, dict) for values in proposals):
            raise self._foreign()
        return proposals if search.get("space") == space else []

    def add_proposals(self, space: str, proposals: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Writes down all that has been proposed, unless another process has written down as much.

        Returns:
            what stands then.
        """
        with storage_faults(self.path), self._locked():
            known = self.proposals(space)
            if len(known) < len(proposals):
                known += [dict(values) for values in proposals[len(known) :]]
                self._write({"search": {"space": space, "proposals": known}})
        return known

    def plan(self) -> SweepPlan | None:
        """Returns what was declared before the results were looked at; None where the list does not say.

        Raises:
            DataError: when the list is not what focalbench writes.
        """
        return read_plan(self._read(), str(self.path / self.LIST))

    def looks(self) -> tuple[Look, ...]:
        """Returns the looks that were taken at the arms, the first one first.

        Raises:
            DataError: when the list is not what focalbench writes.
        """
        return read_looks(self._read(), str(self.path / self.LIST))

    def require_plan(self, plan: SweepPlan) -> None:
        """Refuses a plan that is not the one that was declared, where the arms have been looked at since.

        That is about sweeps that add seeds until their arms are decided. A list of seeds may grow: the looks keep what
        was declared at the time.

        Raises:
            ConfigError: naming the key and both values.
            DataError: when the list is not what focalbench writes.
        """
        known = self.plan()
        if known is not None and plan.until is not None and self.looks():
            require_same(known, plan, str(self.path / self.LIST))

    def declare(self, plan: SweepPlan) -> None:
        """Writes down what is declared; what a sweep declared that has been looked at since, and adds seeds by itself,
        stays.

        Raises:
            ConfigError, DataError: see :meth:`require_plan`.
        """
        with storage_faults(self.path), self._locked():
            self.require_plan(plan)
            known = self.plan()
            if plan != known and (known is None or known.until is None or not self.looks()):
                self._write({"plan": plan.model_dump(mode="json")})

    def record_look(self, look: Look) -> None:
        """Writes down that somebody was told how the arms stand; the same again is no new look.

        Raises:
            DataError: when the list is not what focalbench writes.
            StorageError: when the folder cannot be written.
        """
        with storage_faults(self.path), self._locked():
            # One of an older version, which names no margin, is the same look.
            known = {(other.seeds, other.margin or look.margin): other for other in self.looks()}
            key = look.seeds, look.margin
            if known.get(key) != look:
                known[key] = look  # where it stood before, if it was known
                self._write({"looks": [entry.model_dump(mode="json") for entry in known.values()]})

    def write_results(self) -> None:
        """Replaces results.csv by one row a listed trial, in the order of the list."""
        with storage_faults(self.path), self._locked():
            rows = []
            for listed in self.listed():
                trial = self.trial(str(listed["name"]))
                rows.append(table_row(listed, trial.state(), trial.result()))
            write_atomically(self.path / RESULTS, table_text(rows).encode())

    def _write(self, entries: Mapping[str, Any]) -> None:
        """Replaces entries of the list; all else stays."""
        empty = {"identity": IDENTITY_VERSION, "trials": []}
        write_json(self.path / self.LIST, empty | self._document() | dict(entries))

    def _read(self) -> dict[str, Any]:
        """The content of the list, of any version; empty where there is none."""
        path = self.path / self.LIST
        if not path.exists():
            return {}
        document = read_json(path)
        if not isinstance(document, dict) or "trials" not in document:
            raise self._foreign()
        return document

    def _document(self) -> dict[str, Any]:
        """The content of the list, of this version; empty where there is none."""
        path, document = self.path / self.LIST, self._read()
        if document.get("trials") and document.get("identity") != IDENTITY_VERSION:
            raise DataError(
                f"{path}: its trials are named by the rule of another version of focalbench, and would all be trained "
                "again; use another --out, or --fresh to set them aside (compare, report and evaluate can still "
                "read them)"
            )
        return document

    def _foreign(self) -> DataError:
        return DataError(f"{self.path / self.LIST}: not a list of trials; move it away or use --fresh")

    def _locked(self) -> FileLock:
        """One process at a time reads trials and writes the list, so that none writes down an older state."""
        return FileLock(self.path / _LOCK)

    def _folders_by_hash(self, trials: Sequence[Trial]) -> dict[str, TrialFolder]:
        """Where the trials lie that are not under their name, by what their status says."""
        missing = {trial.hash for trial in trials if not self.trial(trial.name).path.exists()}
        found = {}
        for path in self.path.glob(f"*/{TrialFolder.STATUS}") if missing else ():
            folder = TrialFolder(path.parent)
            try:
                config_hash = folder.status().config_hash
            except DataError:
                continue  # whoever asks for that trial is told
            if config_hash in missing:
                found[config_hash] = folder
        return found

    def _rename(self, folder: TrialFolder, trial: Trial, alone: bool) -> None:
        """The same trial under the name that the grown sweep gives it."""
        if not alone:
            raise BusyError(
                f"{folder.path}: has to be renamed to {trial.name}, but another process is working in this sweep; wait "
                "for it or use another --out"
            )
        folder.rename(self.path / trial.name, trial)
