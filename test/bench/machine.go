package main

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"strings"
)

// machine is where the numbers come from.
type machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	SHA    bool   `json:"sha_instructions"`
	Kernel string `json:"kernel"`
	Go     string `json:"go"`
	Commit string `json:"commit"`
}

func describeMachine(ctx context.Context) machine {
	m := machine{CPU: "unknown", Cores: runtime.NumCPU(), Go: runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH}
	info, err := os.ReadFile("/proc/cpuinfo")
	if err == nil {
		for line := range strings.Lines(string(info)) {
			name, value, _ := strings.Cut(line, ":")
			switch strings.TrimSpace(name) {
			case "model name":
				m.CPU = strings.TrimSpace(value)
			case "flags":
				m.SHA = strings.Contains(value+" ", " sha_ni ")
			default:
			}
		}
	}
	m.Kernel = output(ctx, "uname", "-r")
	m.Commit = output(ctx, "git", "describe", "--always", "--dirty")
	return m
}

func output(ctx context.Context, name string, args ...string) string {
	out, err := exec.CommandContext(ctx, name, args...).Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}
