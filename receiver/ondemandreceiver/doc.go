//go:generate go tool -modfile=../../internal/tools/go.mod mdatagen metadata.yaml

// Package ondemandreceiver makes metrics when somebody asks for them over HTTP:
// of the system, or of what an application sends as JSON. A request is answered
// when the pipeline has accepted the metrics, so that the answer says whether
// they are on their way.
//
// System metrics have the names, units and attributes of the OpenTelemetry
// semantic conventions for system metrics, 1.43. Of those it leaves out what
// needs two readings (utilization of processors) and processes.
//
// It needs nothing else of this distribution. Where a signing extension is
// there, its state is shown too.
package ondemandreceiver
