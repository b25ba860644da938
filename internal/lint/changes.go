package lint

import "github.com/telemark-otel/telemark/internal/block"

// change says what a processor does to the data that passes through it.
type change struct {
	does string
	// tolerated is what a signer has to tolerate so that the data still
	// verifies; zero: nothing helps.
	tolerated block.Tolerance
}

// harmless are processors that let data through as it is, or that other rules
// look at.
var harmless = map[string]bool{
	"memorylimiter": true,
	"batch":         true, // see split-without-tolerance, batch-*
	"tpmsign":       true,
	"tpmverify":     true,
	"remotetap":     true,
}

// changing are the processors that are known to change data, by type without
// underscores.
var changing = map[string]change{
	"attributes":           {does: "changes attributes of items"},
	"resource":             {does: "changes resource attributes", tolerated: block.Enrich},
	"resourcedetection":    {does: "adds resource attributes", tolerated: block.Enrich},
	"k8sattributes":        {does: "adds resource attributes", tolerated: block.Enrich},
	"geoip":                {does: "adds attributes"},
	"dnslookup":            {does: "adds attributes"},
	"lookup":               {does: "adds attributes"},
	"transform":            {does: "rewrites data"},
	"filter":               {does: "drops items", tolerated: block.Split},
	"probabilisticsampler": {does: "drops items", tolerated: block.Split},
	"tailsampling":         {does: "drops and regroups spans", tolerated: block.Split},
	"groupbyattrs":         {does: "moves items into other resources"},
	"groupbytrace":         {does: "regroups spans into other blocks", tolerated: block.Split},
	"cumulativetodelta":    {does: "rewrites metrics"},
	"deltatocumulative":    {does: "rewrites metrics"},
	"deltatorate":          {does: "rewrites metrics"},
	"interval":             {does: "aggregates metrics"},
	"logdedup":             {does: "merges log records"},
	"logstransform":        {does: "rewrites logs"},
	"metricsgeneration":    {does: "adds metrics"},
	"metricstarttime":      {does: "rewrites metrics"},
	"metricstransform":     {does: "rewrites metrics"},
	"redaction":            {does: "removes and masks attributes"},
	"schema":               {does: "rewrites data into another schema version"},
	"signing":              {does: "adds attributes to log records"},
	"span":                 {does: "rewrites spans"},
	"spanpruning":          {does: "drops and merges spans"},
	"sumologic":            {does: "rewrites attributes"},
	"unroll":               {does: "splits log records"},
}

// effect says what is known of a processor.
type effect int

const (
	passes effect = iota
	changes
	unknown
)

func effectOf(s step) (effect, change) {
	if s.kind != "processors" || harmless[s.typ] {
		return passes, change{}
	}
	if c, ok := changing[s.typ]; ok {
		return changes, c
	}
	return unknown, change{}
}

// splits names the setting by which a component cuts blocks, or "".
func splits(s step) (path []string, what string) {
	switch {
	case s.kind == "processors" && s.typ == "batch" && s.cfg.positive("send_batch_max_size"):
		return s.path("send_batch_max_size"), "send_batch_max_size: " + s.cfg.text("send_batch_max_size")
	case s.kind == "exporters" && s.cfg.at("sending_queue", "batch").positive("max_size"):
		return s.path("sending_queue", "batch", "max_size"), "sending_queue::batch::max_size: " + s.cfg.at("sending_queue", "batch").text("max_size")
	default:
		return nil, ""
	}
}
