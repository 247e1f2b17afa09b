# SPDX-License-Identifier: MIT
"""Tests of medians, ratios, tables and plots. Run by ctest."""

import pathlib
import tempfile
import unittest
import xml.etree.ElementTree

from . import contenders, markdown, measure, plots, rows, stages
from .processes import BenchError
from .results import Results

ROW = rows.Row("ext4", "randread", 4096, 32)
NULL_ROW = rows.Row("null", "randread", 4096, 32, poll=True)


def sample(iops, cpu_ns):
    return {"iops": iops, "p50_ns": 1000, "p99_ns": 2000, "p999_ns": 3000, "cpu_ns": cpu_ns}


def make_results():
    results = Results()
    for iops, cpu in ((100e3, 4000), (120e3, 5000), (50e3, 9000)):
        results.add(ROW, contenders.OURS, sample(iops, cpu))
        results.add(ROW, contenders.PEER, sample(iops / 2, cpu * 2))
    results.set_calls(ROW, contenders.OURS, 0.125)
    results.set_calls(ROW, contenders.PEER, None)
    return results


class RowsTest(unittest.TestCase):
    def test_row_names_are_unique(self):
        names = [row.name for row in rows.all_rows()]
        self.assertEqual(len(names), len(set(names)))

    def test_a_row_name_encodes_the_workload(self):
        row = rows.Row("tmpfs", "randread", 65536, 32, offset=512, segments=16, queues=2)
        self.assertEqual(row.name, "tmpfs/randread-64k-d32-off512-16seg-2q")

    def test_every_target_is_compared_with_qemu(self):
        peer = contenders.StorageDaemon(contenders.PEER, "io_uring")
        self.assertEqual({row.target for row in rows.all_rows() if peer.supports(row)},
                         set(rows.TARGETS))


class ResultsTest(unittest.TestCase):
    def test_a_figure_has_median_minimum_and_maximum(self):
        figure = make_results().figure(ROW, contenders.OURS, "iops")
        self.assertEqual((figure.minimum, figure.median, figure.maximum), (50e3, 100e3, 120e3))

    def test_ratios_pair_samples_of_the_same_round(self):
        results = Results()
        for ours, theirs in ((100, 50), (300, 150), (200, 1000)):
            results.add(ROW, "a", sample(ours, 1))
            results.add(ROW, "b", sample(theirs, 1))
        self.assertEqual(results.ratio(ROW, "a", "b", "iops").median, 2)

    def test_a_failed_sample_excludes_its_round_from_ratios(self):
        results = Results()
        for ours, theirs in ((sample(1, 1), None), (None, sample(5, 1)),
                             (sample(6, 1), sample(2, 1))):
            results.add(ROW, "a", ours)
            results.add(ROW, "b", theirs)
        self.assertEqual(results.ratio(ROW, "a", "b", "iops").median, 3)

    def test_a_zero_denominator_excludes_its_round_from_ratios(self):
        results = Results()
        for ours, theirs in ((sample(4, 1), sample(0, 1)), (sample(6, 1), sample(2, 1))):
            results.add(ROW, "a", ours)
            results.add(ROW, "b", theirs)
        self.assertEqual(results.ratio(ROW, "a", "b", "iops").median, 3)

    def test_saved_results_load_unchanged(self):
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory) / "stored" / "results.json"
            make_results().save(path)
            loaded = Results.load(path)
        self.assertEqual(loaded.figure(ROW, contenders.OURS, "cpu_ns").median, 5000)
        self.assertEqual(loaded.calls(ROW, contenders.OURS), 0.125)

    def test_measuring_a_row_again_discards_its_samples(self):
        results = make_results()
        results.begin(ROW)
        self.assertIsNone(results.figure(ROW, contenders.OURS, "iops"))


class MarkdownTest(unittest.TestCase):
    def test_only_the_text_between_the_markers_is_replaced(self):
        once = markdown.replace_between_markers("before\n[\nold\n]\nafter\n", "[]", "new")
        self.assertEqual(once, "before\n[\n\nnew\n\n]\nafter\n")
        self.assertEqual(markdown.replace_between_markers(once, "[]", "new"), once)

    def test_a_document_without_markers_is_rejected(self):
        with self.assertRaises(ValueError):
            markdown.replace_between_markers("text", "[]", "new")

    def test_tables_show_ratios_and_figures(self):
        text = markdown.section(make_results(), rows.all_rows(), contenders.all_contenders())
        self.assertIn("| 4 KiB read, depth 32 | 0.50 | 2.00 | 1.00 | 1.00 |", text)
        self.assertIn("| 4 KiB read, depth 32 | guestio-blk | 100 (50.0–120) | 1.00 | 2.00 | 3.00 |"
                      " 5.00 (4.00–9.00) | 0.125 |", text)
        self.assertNotIn("Null disk", text)

    def test_without_results_there_are_no_tables(self):
        text = markdown.section(Results(), rows.all_rows(), contenders.all_contenders())
        self.assertNotIn("|", text)


class StagesTest(unittest.TestCase):
    def test_our_source_line_maps_to_its_room(self):
        for path, stage in (("/x/guestio/virtio/chain.cc", "ring"), ("/x/guestio/blk/a.h", "req"),
                            ("/x/guestio/mem/recover_x86_64.h", "ring"),
                            ("/x/guestio/mem/recover_copy.cc", "copies"),
                            ("/x/guestio/mem/host_segment.h", "guest addresses"),
                            ("/x/guestio/registered/page_guard.h", "guest addresses"),
                            ("/x/guestio/disk/file/file_channel.cc", "disk")):
            self.assertTrue(stages.stage_of_source(path).startswith(stage), path)
        self.assertIsNone(stages.stage_of_source("/usr/include/c++/12/expected"))

    def test_a_library_line_maps_to_the_enclosing_function(self):
        self.assertEqual(stages.stage_of_symbol("guestio::disk::FileChannel::start"), "disk")
        self.assertIsNone(stages.stage_of_symbol("malloc"))

    def test_an_unknown_kernel_function_maps_to_its_caller(self):
        chain = ["_raw_spin_unlock_irqrestore", "virtqueue_add_sgs", "ext4_file_read_iter"]
        self.assertEqual(stages.stage_of_kernel(chain), "kernel: block layer and driver")
        self.assertEqual(stages.stage_of_kernel(["clear_page"]), "kernel: other")

    def test_every_stage_is_in_the_table(self):
        text = markdown.profile_section({"row": {"title": "null", "stages": {
            stage: 100 for stage in stages.all_stages()}}})
        for stage in stages.all_stages():
            self.assertIn(f"| {stage} | 100 |", text)


class PlotsTest(unittest.TestCase):
    def test_plots_are_well_formed_with_a_dot_for_each_contender(self):
        drawn = plots.all_plots(make_results(), rows.all_rows(), contenders.all_contenders())
        self.assertEqual(list(drawn), ["bench-ext4.svg"])
        root = xml.etree.ElementTree.fromstring(drawn["bench-ext4.svg"])
        dots = [part for part in root.iter() if part.tag.endswith("circle")]
        self.assertEqual(len(dots), 2 * 2 + 2)  # two panels, two contenders; the legend

    def test_the_scaling_plot_is_drawn_over_depth(self):
        results = Results()
        for row in rows.growth_rows():
            results.add(row, contenders.OURS, sample(1e6, 100 * row.depth))
        drawn = plots.all_plots(results, rows.all_rows(), contenders.all_contenders())
        self.assertEqual(list(drawn), ["bench-growth.svg"])
        xml.etree.ElementTree.fromstring(drawn["bench-growth.svg"])


class OutcomeTest(unittest.TestCase):
    def test_the_busier_direction_is_reported(self):
        direction = ('{"iops": %d, "clat_ns": {"percentile": {"50.000000": 5, "99.000000": 6,'
                     ' "99.900000": 7}}}')
        output = 'fio: a warning\n{"jobs": [{"read": %s, "write": %s}]}' % (
            direction % 0, direction % 9)
        self.assertEqual(measure.parse_outcome(output),
                         {"iops": 9, "p50_ns": 5, "p99_ns": 6, "p999_ns": 7})

    def test_a_run_without_requests_is_a_failure(self):
        with self.assertRaises(BenchError):
            measure.parse_outcome('{"jobs": [{"read": {"iops": 0}, "write": {"iops": 0}}]}')


if __name__ == "__main__":
    unittest.main()
