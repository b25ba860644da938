package podmantest

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
)

// removeRules removes what a container that was killed, or whose Podman was, has
// left in the firewall: it would lead calls to a port of this machine into a network
// that is gone, whoever listens on the port next.
func (p *Podman) removeRules() error {
	var err error
	// Podman may be removing some of them just now.
	for range 3 {
		out, listing := exec.Command("iptables", "--wait", "--table", "nat", "--list-rules").Output()
		if listing != nil {
			return fmt.Errorf("list the rules of the firewall: %w", listing)
		}
		rules := rulesOf(strings.Split(string(out), "\n"), p.addresses)
		if len(rules) == 0 {
			return nil
		}
		for _, rule := range rules {
			args := append([]string{"--wait", "--table", "nat", "--delete"}, rule...)
			if out, failed := exec.Command("iptables", args...).CombinedOutput(); failed != nil { //nolint:gosec // rules that iptables listed
				err = fmt.Errorf("remove a rule of the firewall, %v: %w: %s", rule, failed, out)
			}
		}
	}
	return err
}

// rulesOf returns those of netavark's rules, as iptables lists them and without
// the -A, that publish ports for containers whose addresses begin so, and that
// let them out.
func rulesOf(list []string, addresses string) [][]string {
	var rules, found [][]string
	var ports []string
	for _, line := range list {
		rule := words(line)
		if len(rule) < 2 || rule[0] != "-A" {
			continue
		}
		rules = append(rules, rule[1:])
		if strings.HasPrefix(after(rule, "--to-destination"), addresses) {
			ports = append(ports, after(rule, "--dport"))
		}
	}
	for _, rule := range rules {
		ours := strings.HasPrefix(rule[0], "NETAVARK-") && slices.Contains(ports, after(rule, "--dport"))
		for _, option := range []string{"-s", "-d"} {
			ours = ours || strings.HasPrefix(after(rule, option), addresses)
		}
		if ours {
			found = append(found, rule)
		}
	}
	return found
}

// after is the word that follows an option, "" without it.
func after(rule []string, option string) string {
	if at := slices.Index(rule, option); at >= 0 && at+1 < len(rule) {
		return rule[at+1]
	}
	return ""
}

// words splits a listed rule; comments are in quotes.
func words(line string) []string {
	var out []string
	for i, part := range strings.Split(line, `"`) {
		if i%2 == 1 {
			out = append(out, part)
			continue
		}
		out = append(out, strings.Fields(part)...)
	}
	return out
}
