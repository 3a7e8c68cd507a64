"""The guards that the promises rest on, how each is taken away, and the test that must notice."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Guard:
    """What protects; the change of a source file that takes it away; and the test that turns red then.

    `old` is a regular expression that matches once in all of `minigpt/`; one that begins with `def` and names a
    function means its body. `also` are further changes of the same file.
    """

    name: str
    old: str
    new: str
    test: str
    also: tuple[tuple[str, str], ...] = ()


OF_STORAGE, OF_CHECKPOINTS = "tests/base/test_storage.py::", "tests/training/test_checkpoints.py::"
OF_CRASHES, OF_TRAINING = "tests/training/test_crashes.py::", "tests/training/test_training.py::"
MANIFEST_IS_WRITTEN = r"    storage\.write_json\(directory / MANIFEST_FILE, \{\*\*manifest, .*\}\)\n"

GUARDS = (
    Guard(
        "content is flushed before it gets its name",
        r"\S*os\.fsync\W+self\._descriptor\)",
        "pass",
        OF_CRASHES + "test_a_power_cut_at_any_moment_loses_no_acknowledged_step",
    ),
    Guard(
        "a name is flushed with its directory",
        "def _fsync_directory",
        "return",
        OF_CRASHES + "test_a_power_cut_at_any_moment_loses_no_acknowledged_step",
    ),
    Guard(
        "content is written beside the old file, not over it",
        r"self\._temporary = path\.with_name\(.*\)",
        "self._temporary = path",
        OF_STORAGE + "test_a_refused_write_leaves_the_old_file",
    ),
    Guard(
        "a file that was not committed is removed",
        "def discard",
        "return",
        OF_STORAGE + "test_a_refused_write_leaves_the_old_file",
    ),
    Guard(
        "short writes are continued",
        r"view = view\[.*self\._descriptor, view\) :\]",
        "os.write(self._descriptor, view)\n                break",
        OF_STORAGE + "test_short_writes_are_continued",
    ),
    Guard(
        "a directory has one holder",
        "def lock_directory",
        "yield",
        OF_STORAGE + "test_a_directory_has_one_holder_and_death_frees_it",
    ),
    Guard(
        "temporaries of living processes stay",
        r"if match and _is_abandoned\(.*\):",
        "if match:",
        OF_STORAGE + "test_temporaries_of_the_dead_go_and_those_of_the_living_stay",
    ),
    Guard(
        "JSON has no NaN",
        r"parse_constant=_?refuse_constant, ",
        "",
        OF_STORAGE + "test_loose_json_is_refused",
    ),
    Guard(
        "JSON has no key twice",
        r"if len\(found\) != len\(pairs\):",
        "if False:",
        OF_STORAGE + "test_loose_json_is_refused",
    ),
    Guard(
        "figures that are not finite are written as null",
        r"return value if math\.isfinite\(value\) else None(?=\n    if isinstance\(value, dict\))",
        "return value",
        OF_STORAGE + "test_figures_that_are_not_finite_become_null",
    ),
    Guard(
        "a record is compared with its seal",
        "return record if intact else None",
        "return record",
        OF_STORAGE + "test_a_sealed_record_is_read_back_and_an_altered_one_is_not",
    ),
    Guard(
        "a tensor file is compared with its hash",
        r"storage\.sha256_bytes\(content\) != stated\.get\(.sha256.\)",
        "False",
        OF_CHECKPOINTS + "test_every_single_bit_flip_is_detected",
    ),
    Guard(
        "a manifest is compared with its own hash",
        r"stated != _manifest_hash\(manifest\)",
        "False",
        OF_CHECKPOINTS + "test_every_single_bit_flip_is_detected",
    ),
    Guard(
        "a manifest names the known files only",
        r"!= \{MODEL_FILE, OPTIMIZER_FILE, LIFE_FILE\}",
        "== set()",
        OF_CHECKPOINTS + "test_a_manifest_cannot_name_other_files",
    ),
    Guard(
        "data comes before the manifest that commits it",
        r"    files = \{\}\n",
        "    files, late = {}, {}\n",
        OF_CRASHES + "test_a_kill_at_any_operation_of_a_save",
        (
            (r"storage\.write_bytes\(directory / name, data\)", "storage.sha256_bytes(late.setdefault(name, data))"),
            (
                MANIFEST_IS_WRITTEN,
                r"\g<0>    for name, data in late.items():\n        storage.write_bytes(directory / name, data)\n",
            ),
        ),
    ),
    Guard(
        "parameters are checked before they are saved or used",
        "def _check_finite",
        "return",
        OF_CHECKPOINTS + "test_weights_that_are_not_finite_are_named",
    ),
    Guard(
        "a checkpoint is read back before older ones go",
        r"    read\(directory_of\(run, committed\[-1\]\)\)\n",
        "",
        OF_CHECKPOINTS + "test_pruning_reads_back_before_it_deletes",
    ),
    Guard(
        "the manifest is deleted before what it vouches for",
        r"        storage\.remove_tree\(directory_of\(run, step\) / MANIFEST_FILE\)\n",
        "",
        OF_CRASHES + "test_a_kill_at_any_operation_of_a_save",
    ),
    Guard(
        "a resumed log is cut to its checkpoint",
        "def log_up_to",
        "return storage.read_bytes(path, CheckpointError)",
        OF_TRAINING + "test_resume_restores_every_optimizer",
    ),
    Guard(
        "a checkpoint belongs to its configuration, vocabulary and text",
        "def _check_identity",
        "return",
        OF_CHECKPOINTS + "test_changed_text_is_not_resumed_unless_allowed",
    ),
    Guard(
        "a step with an infinite gradient is not taken",
        r"(?<=and )math\.isfinite\(grad_norm\)",
        "True",
        "tests/training/test_step.py::test_a_bad_gradient_stops_the_step_though_the_loss_is_fine",
    ),
    Guard(
        "windows depend on nothing but seed and step",
        r"return torch\.Generator\(\)\.manual_seed\(key\(seed, purpose, step\)\)",
        "return torch.default_generator",
        "tests/text/test_batches.py::test_generators_are_fresh_and_leave_the_global_one_alone",
    ),
    Guard(
        "dropout depends on nothing but seed and step",
        "def seed_dropout",
        "return",
        OF_TRAINING + "test_stopped_and_resumed_ends_in_the_same_bits",
    ),
    Guard(
        "signals are heard at safe points",
        r"number = self\.ranks\.largest\(self\.signal_number\)",
        "number = 0",
        OF_TRAINING + "test_stopped_and_resumed_ends_in_the_same_bits",
    ),
    Guard(
        "a result of a cell is compared with its log",
        r"if storage\.sha256_bytes\(log\) != summary\[.log.\]\[.sha256.\]:\n(?=            return None)",
        "if False:\n",
        "tests/experiments/test_ablation_crashes.py::test_an_altered_result_is_trained_again",
    ),
)
