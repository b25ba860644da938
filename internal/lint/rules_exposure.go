package lint

import (
	"slices"
	"strings"
)

// The rules about who can reach and read what.

// server is a listener of a component.
type server struct {
	component
	path []string
	cfg  values
	addr string
}

// encrypts reports whether the listener speaks TLS: the section is there and
// not switched off.
func (s server) encrypts() bool {
	return s.cfg["tls"] != nil && s.cfg.at("tls").flag("enabled", true)
}

// open reports whether the listener can be reached from other machines.
func (s server) open() bool {
	return s.addr != "" && !loopback(s.addr) && s.cfg.text("transport") != "unix"
}

// authorised reports whether callers have to prove who they are: by an
// authenticator, or by a client certificate.
func (s server) authorised() bool {
	return s.cfg["auth"] != nil || s.cfg.at("tls").text("client_ca_file") != ""
}

// otlpServers returns the listeners of an otlp receiver.
func otlpServers(c component) []server {
	var out []server
	for _, proto := range []string{"grpc", "http"} {
		if cfg := c.cfg.at("protocols"); cfg.has(proto) {
			out = append(out, server{c, c.path("protocols", proto), cfg.at(proto), cfg.at(proto).text("endpoint")})
		}
	}
	return out
}

// listensOpenly reports whether others than this machine can send to an otlp
// receiver.
func listensOpenly(c component) bool { return slices.ContainsFunc(otlpServers(c), server.open) }

func agentListensOpenly(m *model, report reporter) {
	for _, s := range m.signers() {
		for _, before := range m.upstream(s.in, s.index, never) {
			if before.typ != "otlp" || before.kind != "receivers" {
				continue
			}
			for _, srv := range otlpServers(before.component) {
				if srv.open() && !srv.authorised() {
					report(append(srv.path, "endpoint"), srv.addr+" feeds "+s.id+" without auth")
				}
			}
		}
	}
}

func adminWithoutAuth(m *model, report reporter) {
	for _, c := range m.extensions("nonce") {
		admin := server{c, c.path("admin"), c.cfg.at("admin"), c.cfg.at("admin").text("endpoint")}
		if admin.open() && !admin.authorised() {
			report(append(admin.path, "endpoint"), admin.addr+" without auth")
		}
	}
}

// clients returns the connections that a component opens.
func clients(c component) []server {
	at := func(keys ...string) server {
		cfg := c.cfg.at(keys...)
		return server{c, c.path(keys...), cfg, cfg.text("endpoint")}
	}
	switch {
	case c.kind == "exporters" && c.typ == "prometheus", c.kind == "exporters" && c.typ == "file":
		return nil // the one listens, the other writes
	case c.kind == "exporters":
		return []server{at(), at("http")}
	case c.typ == "tpm":
		return []server{at("nonce"), at("registry")}
	case c.typ == "nonce":
		return []server{at("upstream")}
	case c.typ == "tpmverify":
		return []server{at("keys", "registry")}
	default:
		return nil
	}
}

func tlsInsecure(m *model, report reporter) {
	for _, c := range m.all() {
		for _, peer := range clients(c) {
			reportClient(peer, report)
		}
	}
}

// endpoints are the keys that name whom a client talks to.
var endpoints = []string{"endpoint", "metrics_endpoint", "logs_endpoint", "traces_endpoint"}

func reportClient(peer server, report reporter) {
	var remote string
	for _, key := range endpoints {
		addr := peer.cfg.text(key)
		if addr == "" || loopback(addr) {
			continue
		}
		remote = addr
		if strings.HasPrefix(addr, "http://") {
			report(append(slices.Clone(peer.path), key), addr)
		}
	}
	if remote == "" {
		return
	}
	for _, key := range []string{"insecure", "insecure_skip_verify"} {
		if peer.cfg.at("tls").flag(key, false) {
			report(append(slices.Clone(peer.path), "tls", key), "tls::"+key+": true towards "+remote)
		}
	}
}

func plaintextListener(m *model, report reporter) {
	for _, c := range m.all() {
		for _, srv := range servers(c) {
			if srv.open() && !srv.encrypts() {
				report(append(srv.path, "endpoint"), srv.addr+" without tls")
			}
		}
	}
}

func servers(c component) []server {
	at := func(keys ...string) server {
		cfg := c.cfg.at(keys...)
		return server{c, c.path(keys...), cfg, cfg.text("endpoint")}
	}
	switch {
	case c.kind == "receivers" && c.typ == "otlp":
		return otlpServers(c)
	case c.kind == "exporters" && c.typ == "prometheus":
		return []server{at()}
	case c.typ == "nonce":
		return []server{at(), at("admin")}
	default:
		return nil
	}
}

// all returns every component that runs, once.
func (m *model) all() []component {
	var out []component
	seen := map[string]bool{}
	add := func(c component) {
		if key := c.kind + "/" + c.id; !seen[key] {
			seen[key] = true
			out = append(out, c)
		}
	}
	for _, id := range m.running {
		add(m.component("extensions", id))
	}
	for _, p := range m.pipelines {
		for _, c := range slices.Concat(p.receivers, p.processors, p.exporters) {
			add(c)
		}
	}
	return out
}
