package lint

import (
	"slices"
	"strings"
)

// The rules about what a crash, an outage or a restart costs.

// queue describes the sending queue of an exporter.
type queue struct {
	holds  bool     // accepts data before it is delivered
	stored bool     // in a storage extension
	path   []string // where to change that
}

// queued are the exporters that have a sending_queue by default.
var queued = map[string]bool{"otlp": true, "otlphttp": true, "kafka": true}

func queueOf(s step) queue {
	if s.kind != "exporters" {
		return queue{}
	}
	if s.typ == "prometheusremotewrite" {
		path := s.path("remote_write_queue", "enabled")
		return queue{holds: s.cfg.at("remote_write_queue").flag("enabled", true), stored: s.cfg["wal"] != nil, path: path}
	}
	if !queued[s.typ] && !s.cfg.has("sending_queue") {
		return queue{}
	}
	cfg := s.cfg.at("sending_queue")
	return queue{
		holds:  cfg.flag("enabled", true) && !cfg.flag("wait_for_result", false),
		stored: cfg.text("storage") != "",
		path:   s.path("sending_queue"),
	}
}

func (m *model) afterVerifying() []step {
	var out []step
	for _, v := range m.verifiers() {
		out = append(out, m.downstream(v.in, v.index, never)...)
	}
	return out
}

// beforeVerifying are the steps after signing and on gateways.
func (m *model) beforeVerifying() []step {
	var out []step
	for _, l := range slices.Concat(m.signedLegs(), m.relayedLegs()) {
		out = append(out, l.steps...)
	}
	return out
}

func batchAfterVerifying(m *model, report reporter) {
	for _, s := range m.afterVerifying() {
		if s.kind == "processors" && s.typ == "batch" {
			report(s.use, s.id+" behind tpmverify")
		}
	}
}

func memoryQueueAfterVerifying(m *model, report reporter) { reportQueues(m.afterVerifying(), report) }

func memoryQueue(m *model, report reporter) { reportQueues(m.beforeVerifying(), report) }

func reportQueues(steps []step, report reporter) {
	for _, s := range steps {
		if q := queueOf(s); q.holds && !q.stored {
			report(q.path, "the queue of "+s.id+" has no storage")
		}
	}
}

func retryEnds(m *model, report reporter) {
	for _, s := range slices.Concat(m.beforeVerifying(), m.afterVerifying()) {
		if !queueOf(s).holds {
			continue // without a queue the error goes back to the sender, who retries
		}
		retry := s.cfg.at("retry_on_failure")
		switch {
		case !retry.flag("enabled", true):
			report(s.path("retry_on_failure", "enabled"), s.id+" does not retry")
		case !retry.has("max_elapsed_time"):
			report(s.path("retry_on_failure"), s.id+" has the default max_elapsed_time")
		case retry.positive("max_elapsed_time"):
			report(s.path("retry_on_failure", "max_elapsed_time"), "max_elapsed_time: "+retry.text("max_elapsed_time"))
		}
	}
}

// storageUse is a place that names a storage extension.
type storageUse struct {
	id   string
	path []string
}

func (m *model) storageUses() []storageUse {
	var out []storageUse
	add := func(id string, path []string) {
		if id != "" {
			out = append(out, storageUse{id, path})
		}
	}
	for _, p := range m.pipelines {
		for _, c := range slices.Concat(p.receivers, p.processors, p.exporters) {
			add(c.cfg.text("storage"), c.path("storage"))
			add(c.cfg.at("sending_queue").text("storage"), c.path("sending_queue", "storage"))
			add(c.cfg.at("pending").text("storage"), c.path("pending", "storage"))
			add(c.cfg.at("park").text("storage"), c.path("park", "storage"))
		}
	}
	for _, id := range m.running {
		c := m.component("extensions", id)
		if c.typ == "tpm" || c.typ == "nonce" {
			add(c.cfg.text("storage"), c.path("storage"))
		}
	}
	return out
}

func storageNotRunning(m *model, report reporter) {
	for _, u := range m.storageUses() {
		if !slices.Contains(m.running, u.id) {
			report(u.path, u.id+" is not in service::extensions")
		}
	}
}

func storageWithoutFsync(m *model, report reporter) {
	users := map[string][]string{}
	for _, u := range m.storageUses() {
		if user := joinPath(u.path[:2]); !slices.Contains(users[u.id], user) {
			users[u.id] = append(users[u.id], user)
		}
	}
	for _, c := range m.extensions("filestorage") {
		if users[c.id] != nil && !c.cfg.flag("fsync", false) {
			report(c.path("fsync"), c.id+" without fsync is used by "+strings.Join(users[c.id], ", "))
		}
	}
}

// signedLogs are the file_log receivers that feed a signer.
func (m *model) signedLogs() []step {
	var out []step
	for _, s := range m.signers() {
		for _, before := range m.upstream(s.in, s.index, never) {
			if before.kind == "receivers" && before.typ == "filelog" {
				out = append(out, before)
			}
		}
	}
	return out
}

func logsDroppedWhenBusy(m *model, report reporter) {
	for _, s := range m.signedLogs() {
		retry := s.cfg.at("retry_on_failure")
		if !retry.flag("enabled", false) || !retry.has("max_elapsed_time") || retry.positive("max_elapsed_time") {
			report(s.path("retry_on_failure"), s.id+" does not retry without end")
		}
	}
}

func logsSkippedAfterRestart(m *model, report reporter) {
	for _, s := range m.signedLogs() {
		if s.cfg.text("storage") == "" {
			report(s.path("storage"), s.id+" without storage")
		}
	}
}

func pendingInMemory(m *model, report reporter) {
	for _, s := range m.signers() {
		if s.cfg.at("pending").text("storage") == "" {
			report(s.path("pending", "storage"), s.id+" without pending::storage")
		}
	}
}

func refusedMayBeChanged(m *model, report reporter) {
	for _, s := range m.signers() {
		if s.cfg.at("pending").text("copy") != "never" {
			continue
		}
		path, behind := s.path("pending", "copy"), s.in.processors[s.index+1:]
		switch {
		case len(behind) > 0:
			report(path, behind[0].id+" stands behind "+s.id)
		case len(s.in.exporters) > 1:
			report(path, s.in.name+" has several exporters")
		case slices.ContainsFunc(s.in.exporters, mayChangeWhatItRefuses):
			report(path, s.in.exporters[0].id+" may change what it refuses")
		}
	}
}

// mayChangeWhatItRefuses is true of connectors, behind which there may be
// anything, and of queues that refuse what they have taken.
func mayChangeWhatItRefuses(c component) bool {
	return c.kind == "connectors" || c.cfg.at("sending_queue").flag("wait_for_result", false)
}

// issuing returns the nonce extensions that hold windows: not the relays.
func (m *model) issuing() []component {
	return slices.DeleteFunc(m.extensions("nonce"), func(c component) bool { return c.cfg["upstream"] != nil })
}

func windowsInMemory(m *model, report reporter) {
	for _, c := range m.issuing() {
		if c.cfg.text("storage") == "" {
			report(c.path("storage"), c.id+" without storage")
		}
	}
}

func verifierWithoutNonces(m *model, report reporter) {
	for _, v := range m.verifiers() {
		if len(m.issuing()) == 0 {
			report([]string{"service", "extensions"}, v.id+" in "+v.in.name+" needs a nonce extension")
		}
	}
}

func archiveTruncated(m *model, report reporter) {
	for _, s := range m.afterVerifying() {
		if s.typ == "file" && !s.cfg.has("rotation") && !s.cfg.flag("append", false) {
			report(s.path("append"), s.id+" has neither append nor rotation")
		}
	}
}

func archiveBuffered(m *model, report reporter) {
	for _, s := range m.afterVerifying() {
		if s.typ == "file" && !s.cfg.has("rotation") {
			report(s.path("rotation"), s.id+" has no rotation")
		}
	}
}

func receiptsAsLabels(m *model, report reporter) {
	for _, v := range m.verifiers() {
		if !keepsReceipts(v.component) {
			continue
		}
		for _, s := range m.downstream(v.in, v.index, isStrip) {
			if s.typ == "prometheus" || s.typ == "prometheusremotewrite" {
				report(s.use, s.id+" gets data with receipts")
			}
		}
	}
}
