package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/provider/envprovider"
	"go.opentelemetry.io/collector/confmap/provider/fileprovider"
	"go.opentelemetry.io/collector/confmap/provider/yamlprovider"

	"github.com/telemark-otel/telemark/internal/block"
	"github.com/telemark-otel/telemark/internal/lint"
)

const (
	lintLong = `Read collector configurations and report what would break the proof or lose
data: processors that change signed data, splits that the signer does not
tolerate, batches and queues in memory behind tpmverify, exporters that give
up, ports and connections that are open to others.

Several files are merged as the collector merges them (--config once for each),
and ${env:NAME:-default} is expanded with the environment of this process. To
check configurations that do not belong together, call the command once for
each.

A gateway and a receiving collector cannot know what the signers tolerate;
--tolerate tells. Which values are valid at all, 'otelcol-telemark validate'
says.`

	lintExample = `  telemark config lint agent.yaml
  telemark config lint base.yaml site.yaml --output json
  telemark config lint --tolerate split gateway.yaml
  telemark config lint --rules`

	// wrapAt is the width of running text, in columns.
	wrapAt = 96
)

func newConfig() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "config",
		Short:   "Check collector configurations",
		Example: lintExample,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newConfigLint())
	return cmd
}

func newConfigLint() *cobra.Command {
	var tolerate []string
	var listRules bool
	cmd := &cobra.Command{
		Use:     "lint FILE…",
		Short:   "Report what in a collector configuration would break the proof or lose data",
		Long:    lintLong,
		Example: lintExample,
		RunE: func(cmd *cobra.Command, args []string) error {
			if listRules {
				return showRules(cmd)
			}
			if len(args) == 0 {
				return fmt.Errorf("name at least one configuration file, or --rules")
			}
			t, err := parseTolerate(tolerate)
			if err != nil {
				return err
			}
			return lintFiles(cmd, args, lint.Options{Tolerate: t})
		},
	}
	cmd.Flags().StringSliceVar(&tolerate, "tolerate", nil, "what the signers of the incoming data tolerate: split, enrich")
	cmd.Flags().BoolVar(&listRules, "rules", false, "list the rules instead")
	return cmd
}

func parseTolerate(words []string) (block.Tolerance, error) {
	var t block.Tolerance
	for _, w := range words {
		switch w {
		case "split":
			t |= block.Split
		case "enrich":
			t |= block.Enrich
		default:
			return 0, fmt.Errorf("--tolerate %q: want split, enrich or both", w)
		}
	}
	return t, nil
}

// located is a finding with the place in the files.
type located struct {
	lint.Finding
	File string `json:"file"`
	Line int    `json:"line"`
}

func lintFiles(cmd *cobra.Command, files []string, opts lint.Options) error {
	places, err := newLocator(files)
	if err != nil {
		return work(err)
	}
	config, err := resolve(cmd.Context(), files)
	if err != nil {
		return work(fmt.Errorf("reading the configuration as the collector does: %w", err))
	}
	if !hasPipelines(config) {
		return work(fmt.Errorf("%s: there are no service::pipelines to check; name the file of the whole configuration, and those that stand on top of it behind it", strings.Join(files, ", ")))
	}
	if what := unconfigured(config); what != "" {
		return work(fmt.Errorf("%s: %s, which is not configured; name the file of the whole configuration, and those that stand on top of it behind it", strings.Join(files, ", "), what))
	}
	findings := []located{}
	for _, f := range lint.Run(config, opts) {
		file, line := places.find(f.Path)
		findings = append(findings, located{f, file, line})
	}
	if err := show(cmd, findings, func(w io.Writer) { sayFindings(w, files, findings) }); err != nil {
		return err
	}
	if len(findings) > 0 {
		return errFound
	}
	return nil
}

// hasPipelines says whether config is one that a collector could run: of
// anything else there would be nothing to find.
func hasPipelines(config map[string]any) bool {
	service, _ := config["service"].(map[string]any)
	pipelines, _ := service["pipelines"].(map[string]any)
	return len(pipelines) > 0
}

// unconfigured returns a component that a pipeline names and nothing configures,
// "" when there is none: the collector does not start with it.
func unconfigured(config map[string]any) string {
	section := func(name string) map[string]any {
		m, _ := config[name].(map[string]any)
		return m
	}
	service := section("service")
	pipelines, _ := service["pipelines"].(map[string]any)
	for _, id := range sortedKeys(pipelines) {
		pipeline, _ := pipelines[id].(map[string]any)
		for _, kind := range []string{"receivers", "processors", "exporters"} {
			names, _ := pipeline[kind].([]any)
			for _, name := range names {
				name := fmt.Sprint(name)
				_, configured := section(kind)[name]
				_, connector := section("connectors")[name]
				if !configured && (kind == "processors" || !connector) {
					return fmt.Sprintf("the pipeline %s has the %s %s", id, strings.TrimSuffix(kind, "s"), name)
				}
			}
		}
	}
	return ""
}

// resolve merges and expands the files with the collector's own code. Files on
// the network are not fetched: a check must not depend on who answers.
func resolve(ctx context.Context, files []string) (map[string]any, error) {
	uris := make([]string, len(files))
	for i, f := range files {
		uris[i] = "file:" + f
	}
	r, err := confmap.NewResolver(confmap.ResolverSettings{
		URIs:              uris,
		ProviderFactories: []confmap.ProviderFactory{fileprovider.NewFactory(), envprovider.NewFactory(), yamlprovider.NewFactory()},
		DefaultScheme:     "env",
	})
	if err != nil {
		return nil, err
	}
	conf, err := r.Resolve(ctx)
	if err != nil {
		return nil, err
	}
	if err := r.Shutdown(ctx); err != nil {
		return nil, err
	}
	return conf.ToStringMap(), nil
}

func sayFindings(w io.Writer, files []string, findings []located) {
	if len(findings) == 0 {
		say(w, "%s: nothing found", strings.Join(files, " + "))
		return
	}
	for _, f := range findings {
		say(w, "%s:%d: %s: %s", f.File, f.Line, f.Severity, f.Rule)
		say(w, "    %s", f.Key)
		sayIndented(w, "found    ", f.Found+".")
		sayIndented(w, "why      ", f.Why)
		sayIndented(w, "instead  ", f.Instead)
		say(w, "")
	}
	errors := len(slices.DeleteFunc(slices.Clone(findings), func(f located) bool { return f.Severity != lint.Error }))
	say(w, "%s, %s", count(errors, "error"), count(len(findings)-errors, "warning"))
}

// sayIndented writes a labelled paragraph.
func sayIndented(w io.Writer, label, s string) {
	indent := strings.Repeat(" ", 4+len(label))
	wrapped := text.WrapSoft(s, wrapAt-len(indent))
	for i, line := range strings.Split(wrapped, "\n") {
		if i == 0 {
			say(w, "    %s%s", label, strings.TrimRight(line, " "))
			continue
		}
		say(w, "%s%s", indent, strings.TrimRight(line, " "))
	}
}

func showRules(cmd *cobra.Command) error {
	rules := lint.Rules()
	return show(cmd, rules, func(w io.Writer) {
		t := newTable(w, "RULE", "SEVERITY", "FINDS")
		for _, r := range rules {
			t.AppendRow([]any{r.ID, r.Severity, r.Title})
		}
		t.Render()
	})
}
