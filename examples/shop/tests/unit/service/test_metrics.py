"""Metrics: the Prometheus text format."""

import unittest

from shop.metrics import Counter, Gauge, Histogram, Info, ShopMetrics


class MetricsTest(unittest.TestCase):
    def test_counter(self):
        counter = Counter("c", "help", ("route",))
        self.check(counter, [])
        counter.add("/")
        counter.add("/", amount=1_234_567)
        self.check(counter, ['c{route="/"} 1234568'])
        self.check(Counter("c", "help"), ["c 0"])

    def test_gauge(self):
        gauge = Gauge("g", "help")
        gauge.add(3)
        gauge.add(-1)
        self.check(gauge, ["g 2"])

    def test_histogram_buckets_are_cumulative_and_include_their_bound(self):
        histogram = Histogram("h", "help", ("route",), (0.1, 1.0))
        for seconds in (0.05, 0.1, 0.5, 7):
            histogram.observe(seconds, "/")
        self.check(
            histogram,
            [
                'h_bucket{route="/",le="0.1"} 2',
                'h_bucket{route="/",le="1"} 3',
                'h_bucket{route="/",le="+Inf"} 4',
                'h_sum{route="/"} 7.650000',
                'h_count{route="/"} 4',
            ],
        )

    def test_label_values_are_escaped(self):
        self.check(Info("i", "help", {"v": 'a"b\\c\nd'}), ['i{v="a\\"b\\\\c\\nd"} 1'])

    def test_the_page_has_a_header_for_each_metric(self):
        lines = ShopMetrics("1").expose().splitlines()
        self.assertIn("# TYPE shop_http_request_duration_seconds histogram", lines)
        self.assertIn('shop_build_info{version="1"} 1', lines)

    def check(self, metric, lines):
        self.assertEqual(list(metric.samples()), lines)


if __name__ == "__main__":
    unittest.main()
