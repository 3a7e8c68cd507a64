"""The 58 kinds of fault, each with the tests that hold the project to its answer."""

from __future__ import annotations

BAD_INPUT, CLI, BATTERY = "tests/test_bad_input.py::", "tests/test_cli.py::", "tests/battery/test_battery.py::"
STORAGE, CORPORA, STORE = "tests/base/test_storage.py::", "tests/text/test_corpora.py::", "tests/text/test_store.py::"
TOKENIZERS, TRAINING = "tests/text/test_tokenizers.py::", "tests/training/test_training.py::"
CHECKPOINTS, RECOVERY = "tests/training/test_checkpoints.py::", "tests/training/test_recovery.py::"
CRASHES, PROCESS = "tests/training/test_crashes.py::", "tests/training/test_process.py::"
ABLATION, RANKS = "tests/experiments/test_ablation_crashes.py::", "tests/training/test_ranks.py::"
SAMPLE, SAMPLING = "tests/commands/test_sample.py::", "tests/sampling/test_sampling.py::"
STOPS, REPORT = "tests/commands/test_sample_stops.py::", "tests/report/test_run_page.py::"
FLAG, FILE = (
    BAD_INPUT + "test_a_mistake_in_a_flag_is_named",
    BAD_INPUT + "test_a_mistake_in_a_configuration_file_is_named",
)
FLIPS, DAMAGED = (
    CHECKPOINTS + "test_every_single_bit_flip_is_detected",
    STORE + "test_damaged_files_are_rebuilt_with_a_notice",
)
STEP = "tests/training/test_step.py::"
GROUP = BATTERY + "test_a_little_of_each_group"

CASES: dict[int, tuple[str, ...]] = {
    # A. command line and configuration
    1: (FLAG, FILE),  # an unknown key
    2: (FLAG, FILE),  # a wrong type
    3: (FLAG,),  # a number out of range
    4: (FLAG,),  # a width that the heads do not divide
    5: (FLAG,),  # an unknown activation
    6: (BAD_INPUT + "test_an_activation_name_is_never_looked_up_outside_the_registry",),
    7: (CLI + "test_a_value_may_contain_an_equals_sign",),
    8: (BAD_INPUT + "test_a_configuration_file_is_never_executed",),
    9: (FILE, BAD_INPUT + "test_a_run_name_with_control_characters_is_refused", STORAGE + "test_loose_json_is_refused"),
    10: (BAD_INPUT + "test_an_absent_device_is_refused",),
    # B. data
    11: (BAD_INPUT + "test_a_corpus_that_cannot_be_read_is_named",),  # missing, a directory, a FIFO
    12: (BAD_INPUT + "test_a_corpus_that_cannot_be_read_is_named",),  # empty
    13: (BAD_INPUT + "test_a_part_shorter_than_the_context_is_refused",),
    14: (BAD_INPUT + "test_evaluation_without_validation_text_is_refused",),
    15: (CORPORA + "test_bad_sources_are_named",),  # no UTF-8
    16: (STORE + "test_round_trip_is_lossless", TOKENIZERS + "test_every_text_survives_the_round_trip"),
    17: (RECOVERY + "test_a_text_of_one_character_can_be_learned",),
    18: (DAMAGED,),  # an id outside the vocabulary
    19: (DAMAGED,),  # an odd number of bytes
    20: (CHECKPOINTS + "test_changed_text_is_not_resumed_unless_allowed",),
    21: (STORE + "test_truncated_token_file_is_an_error_not_a_crash", STORE + "test_large_token_files_are_mapped"),
    # C. checkpoints
    22: (CHECKPOINTS + "test_every_truncation_is_detected",),
    23: (FLIPS, GROUP + "[bit_flips]"),
    24: (FLIPS,),  # in the manifest
    25: (
        CHECKPOINTS + "test_the_newest_good_checkpoint_is_found",
        SAMPLE + "test_a_damaged_last_checkpoint_is_passed_over_unless_asked_for",
    ),
    26: (CHECKPOINTS + "test_a_newer_format_asks_for_an_upgrade",),
    27: (CHECKPOINTS + "test_all_that_does_not_fit_is_listed",),
    28: (CHECKPOINTS + "test_hostile_tensor_files_are_inert",),  # a pickle
    29: (
        CHECKPOINTS + "test_hostile_tensor_files_are_inert",
        "tests/training/test_hostile_checkpoints.py::test_a_hundred_thousand_tensors_are_refused_quickly",
    ),
    30: (CHECKPOINTS + "test_weights_that_are_not_finite_are_named",),
    31: (
        CHECKPOINTS + "test_a_manifest_cannot_name_other_files",
        CHECKPOINTS + "test_a_linked_tensor_file_is_refused",
    ),
    32: (CHECKPOINTS + "test_an_altered_run_is_not_resumed",),  # another vocabulary
    33: (CHECKPOINTS + "test_every_contradicting_flag_is_named",),
    # D. processes
    34: (GROUP + "[kills]",),
    35: (
        CRASHES + "test_a_kill_at_any_operation_of_a_save",
        CRASHES + "test_a_kill_at_any_operation_before_the_first_step",
        CRASHES + "test_a_kill_at_any_operation_of_a_resume",
    ),
    36: (
        PROCESS + "test_a_signal_stops_a_real_training",
        TRAINING + "test_stopped_and_resumed_ends_in_the_same_bits",
        GROUP + "[stop_latency]",
        STOPS + "test_a_stopped_sample_keeps_its_text",
        ABLATION + "test_a_signal_leaves_what_can_be_continued",
    ),
    37: (PROCESS + "test_a_signal_stops_a_real_training", PROCESS + "test_a_second_interrupt_leaves_at_once"),
    38: (RECOVERY + "test_a_signal_during_a_save_lets_it_end",),
    39: (
        GROUP + "[errnos]",
        STORAGE + "test_a_refused_write_leaves_the_old_file",
        CHECKPOINTS + "test_a_save_refused_at_any_operation_keeps_the_older_one",
    ),
    40: (STORAGE + "test_short_writes_are_continued", GROUP + "[errnos]"),
    41: (PROCESS + "test_a_full_disk", PROCESS + "test_a_save_beyond_the_file_size_limit"),
    42: (
        BAD_INPUT + "test_a_place_that_cannot_be_written_is_refused_before_the_text_is_prepared",
        PROCESS + "test_too_little_space_is_said_before_training",
    ),
    43: (
        CLI + "test_running_out_of_memory_is_advised_on",
        CLI + "test_a_model_that_does_not_fit_is_out_of_memory",
    ),
    44: (CRASHES + "test_a_power_cut_at_any_moment_loses_no_acknowledged_step", GROUP + "[power_loss]"),
    45: (RECOVERY + "test_a_full_disk_during_a_recovery",),
    46: (RECOVERY + "test_order_is_by_step_whatever_the_clock_says",),
    # E. numbers
    47: (
        TRAINING + "test_divergence_stops_before_the_update",
        STEP + "test_a_bad_weight_is_named",
    ),
    48: (STEP + "test_a_bad_gradient_stops_the_step_though_the_loss_is_fine",),
    49: (
        RECOVERY + "test_a_validation_loss_that_is_no_number_is_never_the_best",
        RECOVERY + "test_a_parameter_that_is_no_number_ends_a_training_at_its_evaluation",
    ),
    50: ("tests/training/test_evaluation.py::test_perplexity_overflows_to_infinity",),
    51: (ABLATION + "test_a_diverged_cell_is_a_result",),
    # F. several processes
    52: (
        PROCESS + "test_a_second_training_is_locked_out",
        STORAGE + "test_a_directory_has_one_holder_and_death_frees_it",
    ),
    53: (GROUP + "[ablation_kills]",),
    54: (STORAGE + "test_temporaries_of_the_dead_go_and_those_of_the_living_stay",),
    # G. distributed
    55: (RANKS + "test_a_killed_process_ends_the_job",),
    56: (RANKS + "test_a_signal_to_one_stops_all",),
    # H. sampling and pages
    57: (
        SAMPLE + "test_an_empty_prompt_starts_a_line",
        SAMPLE + "test_a_prompt_longer_than_the_context_is_noted",
        SAMPLE + "test_characters_never_seen_are_named",
        SAMPLE + "test_a_closed_pipe_ends_quietly",
        SAMPLE + "test_text_streams_token_by_token",
        SAMPLING + "test_refuses_settings_outside_their_range",
        SAMPLING + "test_top_k_beyond_the_vocabulary_is_off",
        STOPS + "test_a_stopped_sample_keeps_its_text",
    ),
    58: (
        "tests/base/test_formats.py::test_what_could_command_a_terminal_is_shown_as_an_escape",
        REPORT + "test_text_is_escaped",
        REPORT + "test_tokens_are_inert",
        REPORT + "test_only_our_own_scripts_may_run",
    ),
}
