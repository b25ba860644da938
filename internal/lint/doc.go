// Package lint judges collector configurations by the delivery rules of
// telemark: it takes a configuration as the collector sees it
// (merged, variables expanded) and returns findings. It follows the options of
// the Collector at v0.159.0 and does not validate them; `otelcol-telemark
// validate` does that. It reads no files and knows nothing of line numbers.
//
// What it looks at is the way that a block takes: from tpmsign through
// processors, connectors and exporters out of an agent, through a gateway, and
// through tpmverify into the exporters behind it.
package lint
