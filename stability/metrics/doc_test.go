package metrics

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestDocumentedTableIsWhatIsRegistered shows the right one when it fails.
func TestDocumentedTableIsWhatIsRegistered(t *testing.T) {
	var want strings.Builder
	for _, in := range table {
		row := fmt.Sprintf("%-41s %-8s %-12s", in.name, map[kind]string{sum: "sum", counter: "counter", gauge: map[bool]string{true: "least", false: "largest"}[in.least]}[in.kind], in.unit)
		for _, a := range in.attributes {
			row += " " + strings.TrimPrefix(a, "wastability.")
		}
		fmt.Fprintln(&want, "//\t"+strings.TrimRight(row, " "))
	}
	doc, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	require.Contains(t, string(doc), want.String())
}

func TestEveryAttributeValueIsOfAClosedSet(t *testing.T) {
	series := 0
	for _, in := range table {
		require.Len(t, in.sets, max(1, len(in.variants)), in.name)
		for _, v := range in.variants {
			require.Len(t, v, len(in.attributes), in.name)
		}
		series += len(in.sets)
		// An unknown value must not be counted as one that is known.
		if n := len(in.variants); n > 0 && in.variants[n-1][len(in.attributes)-1] == Other {
			require.Equal(t, n-1, in.index([]string{"\x00+4915200000001@s.whatsapp.net"}), in.name)
		}
	}
	require.Less(t, series, 150, "of one account")
	require.Greater(t, series, 100)
	t.Log(series, "series")
}
