package nesting

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	aNumber = regexp.MustCompile(`(?m)^\t\tcase (\d+):`)
	aName   = regexp.MustCompile(`(?m)^\t\tcase "(\w+)"(?:, "(\w+)")?:`)
	aRead   = regexp.MustCompile(`iter\.Read(String|Bytes|Bool|Int32|Uint32|Int64|Uint64|Float64|EnumValue)\(`)
)

var reads = map[string]valueType{
	"String": text, "Bytes": raw, "Bool": boolean, "Int32": int32s, "EnumValue": int32s,
	"Uint32": uint32s, "Int64": int64s, "Uint64": uint64s, "Float64": float,
}

// function returns the body of a method of a generated file.
func function(t *testing.T, source, method string) string {
	t.Helper()
	_, rest, ok := strings.Cut(source, ") "+method+"(")
	require.True(t, ok, method)
	body, _, ok := strings.Cut(rest, "\n}\n")
	require.True(t, ok)
	return body
}

// cases returns what stands under each case of a switch.
func cases(body string, at *regexp.Regexp) (labels [][]string, under []string) {
	found := at.FindAllStringSubmatchIndex(body, -1)
	for i, m := range found {
		end := len(body)
		if i+1 < len(found) {
			end = found[i+1][0]
		}
		var label []string
		for j := 2; j+1 < len(m); j += 2 {
			if m[j] >= 0 {
				label = append(label, body[m[j]:m[j+1]])
			} else {
				label = append(label, "")
			}
		}
		labels, under = append(labels, label), append(under, body[m[1]:end])
	}
	return labels, under
}

// The table is that of the pdata that this module is built with: a message or a
// field that it learns has to be learned here.
func TestTheTableIsThatOfPdata(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "go.opentelemetry.io/collector/pdata").Output()
	require.NoError(t, err)
	dir := filepath.Join(strings.TrimSpace(string(out)), "internal")
	files := map[message]string{
		mLogsRequest: "ExportLogsServiceRequest", mTraceRequest: "ExportTraceServiceRequest",
		mMetricsRequest: "ExportMetricsServiceRequest", mProfilesRequest: "ExportProfilesServiceRequest",
	}
	todo := []message{mLogsRequest, mTraceRequest, mMetricsRequest, mProfilesRequest}
	for len(todo) > 0 {
		m := todo[0]
		todo = todo[1:]
		b, err := os.ReadFile(filepath.Join(dir, "generated_proto_"+strings.ToLower(files[m])+".go"))
		require.NoError(t, err)
		source := string(b)

		numbers, binary := cases(function(t, source, "UnmarshalProto"), aNumber)
		names, inJSON := cases(function(t, source, "UnmarshalJSON"), aName)
		require.Len(t, schema[m], len(numbers), files[m])
		require.Len(t, schema[m], len(names), files[m])
		byNumber := map[string]string{}
		for i, n := range numbers {
			byNumber[n[0]] = binary[i]
		}
		for i, f := range schema[m] {
			where := files[m] + "." + f.camel
			require.Equal(t, []string{f.camel, f.snake}, names[i], where)
			require.Contains(t, byNumber, strconv.Itoa(f.number), where)
			require.Contains(t, byNumber[strconv.Itoa(f.number)], "for field "+strings.ToUpper(f.camel[:1])+f.camel[1:]+`"`, where)
			require.Equal(t, f.list, strings.Contains(inJSON[i], "iter.ReadArray()"), where)
			if f.holds == object {
				require.Contains(t, byNumber[strconv.Itoa(f.number)], ".UnmarshalProto(", where)
				require.Contains(t, inJSON[i], ".UnmarshalJSON(iter)", where)
				if files[f.message] == "" {
					files[f.message] = goType(t, source, inJSON[i])
					todo = append(todo, f.message)
				} else {
					require.Equal(t, files[f.message], goType(t, source, inJSON[i]), where)
				}
				continue
			}
			if strings.Contains(inJSON[i], ".UnmarshalJSON(iter)") { // an identifier
				require.Equal(t, raw, f.holds, where)
				require.Regexp(t, `(Trace|Span|Profile)ID$`, goType(t, source, inJSON[i]), where)
				continue
			}
			read := aRead.FindStringSubmatch(inJSON[i])
			require.NotNil(t, read, where)
			require.Equal(t, reads[read[1]], f.holds, where)
		}
	}
	require.Len(t, files, int(messages)-1, "messages that nobody comes to")
}

var target = regexp.MustCompile(`(?:orig|ov)\.(\w+)(?:\[len\(orig\.\w+\)-1\])?\.UnmarshalJSON\(iter\)`)

// goType is the Go type of what is decoded in the lines of a case.
func goType(t *testing.T, source, lines string) string {
	t.Helper()
	m := target.FindStringSubmatch(lines)
	require.NotNil(t, m, lines)
	if made := regexp.MustCompile(m[1] + ` = New(\w+)\(\)`).FindStringSubmatch(lines); made != nil {
		return made[1]
	}
	declared := regexp.MustCompile(`(?m)^\t` + m[1] + `\s+[\[\]*]*(\w+)$`).FindStringSubmatch(source)
	require.NotNil(t, declared, m[1])
	return declared[1]
}
