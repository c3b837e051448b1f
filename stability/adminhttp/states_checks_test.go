package adminhttp_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// PairPasskeyRequest has the name by which the event of newer versions of
// whatsmeow is known.
type PairPasskeyRequest struct{ PublicKey *struct{} }

// In every state the answer of status-now says what is wrong, since when, why,
// and what happens next, and so does the page. The files in testdata are for people to read.
func TestStatusNowAloneAnswersWhatIsWrongSinceWhenWhyAndWhatNext(t *testing.T) {
	for _, c := range states {
		t.Run(c.name, func(t *testing.T) {
			for rough := true; rough; {
				bubble(t, func(t *testing.T) {
					p := newPlace(t, c.opts...)
					defer p.stop()
					c.reach(p)
					if rough = p.rough; !rough {
						checkAnswers(t, p, c.name, c.fine)
						checkPage(t, p, c.fine)
					}
				})
			}
		})
	}
}

func checkAnswers(t *testing.T, p *place, name string, fine bool) {
	w := p.get("/api/longrun/status-now")
	doc := p.answer(w, 200)
	wa := doc["wa"].(map[string]any)
	require.NotEmpty(t, wa["summary"])
	require.Equal(t, doc["summary"], wa["summary"])
	require.NotNil(t, wa["since"])
	require.LessOrEqual(t, wa["since"], doc["timestamp"])
	require.NotEmpty(t, wa["nextStep"])
	if fine {
		require.Nil(t, wa["whatToDo"], "nobody needs to do anything")
	} else {
		require.NotNil(t, wa["reasonText"])
	}
	if next := p.m.Status().NextRetryAt; !next.IsZero() && p.m.Status().StoreUnavailable == nil {
		require.Contains(t, wa["nextStep"], next.UTC().Format("15:04:05 UTC"))
	}
	for _, text := range []any{wa["summary"], wa["nextStep"], wa["reasonText"], wa["whatToDo"]} {
		if text != nil {
			require.NotContains(t, text, "does not know")
			require.NotContains(t, text, "%!")
		}
	}
	file := filepath.Join("testdata", name+".json")
	if *update {
		require.NoError(t, os.WriteFile(file, atNoon(t, w.Body.Bytes()), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(normalise(t, want)), string(normalise(t, w.Body.Bytes())), "run go test -update if this is meant to be so")
}

// atNoon makes a document as it would have been at noon, for people to read.
func atNoon(t *testing.T, body []byte) []byte {
	var doc struct{ Timestamp time.Time }
	require.NoError(t, json.Unmarshal(body, &doc))
	shift := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC).Sub(doc.Timestamp.Truncate(time.Second))
	moved := func(layout string) func(string) string {
		return func(s string) string {
			at, err := time.Parse(layout, s)
			require.NoError(t, err)
			return at.Add(shift).Format(layout)
		}
	}
	var pretty bytes.Buffer
	require.NoError(t, json.Indent(&pretty, body, "", "  "))
	out := stamp.ReplaceAllStringFunc(strings.TrimSpace(pretty.String()), moved("2006-01-02T15:04:05.000Z"))
	out = clock.ReplaceAllStringFunc(out, moved("15:04:05 UTC on 2 January 2006"))
	out = lease.ReplaceAllStringFunc(out, func(s string) string {
		name, n, _ := strings.Cut(s, ": ")
		ms, err := strconv.ParseInt(n, 10, 64)
		require.NoError(t, err)
		return name + ": " + strconv.FormatInt(ms+shift.Milliseconds(), 10)
	})
	return []byte(out + "\n")
}

// volatile fields depend on random intervals: they get a value that could be.
var volatile = map[string]string{
	"lockSeenAt": "-5s", "lastReadAt": "-5s", "lastProbeAt": "-20s", "lastRenewalAt": "-10s", "trustedUntil": "70s", "lockLeaseUntil": "80s", "lastEventAt": "-40s",
	"waModeSince": "-150s", "countedSince": "-150s", "timeSinceLastEventMs": "40000", "lastAuthWriteAt": "-50s", "updatedAt": "0s", "authKeyCount": "840", "bytes": "960", "handlerAgeMs": "210000", "handledPerSecond": "0",
	"contacts": "1", // newer versions of whatsmeow learn more of them by themselves
}

var (
	many  = regexp.MustCompile(`"failures": \d\d+`)
	line  = regexp.MustCompile(`^(\s*"(\w+)": )(.*?)(,?)$`)
	stamp = regexp.MustCompile(`\d{4}-\d\d-\d\dT[\d:.]+Z`)
	since = regexp.MustCompile(`(running|nothing happened) for [0-9hms]+`)
	lease = regexp.MustCompile(`"lockLeaseUntil": \d+`)
	clock = regexp.MustCompile(`\d\d:\d\d:\d\d UTC on \d+ \w+ \d{4}`)
)

// normalise sets the clock to noon, rounds times to seconds and replaces what
// is volatile. The order of the fields stays.
func normalise(t testing.TB, body []byte) []byte {
	var doc struct{ Timestamp time.Time }
	require.NoError(t, json.Unmarshal(body, &doc))
	noon := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	move := func(at time.Time) time.Time { return noon.Add(at.Sub(doc.Timestamp).Round(time.Second)) }
	var pretty bytes.Buffer
	require.NoError(t, json.Indent(&pretty, body, "", "  "))
	lines := strings.Split(strings.TrimSpace(pretty.String()), "\n")
	for i, l := range lines {
		if m := line.FindStringSubmatch(l); m != nil && m[3] != "null" {
			if v, ok := volatile[m[2]]; ok {
				if d, err := time.ParseDuration(v); err == nil {
					v = noon.Add(d).Format(`"2006-01-02T15:04:05.000Z"`)
					if m[2] == "lockLeaseUntil" {
						v = strconv.FormatInt(noon.Add(d).UnixMilli(), 10)
					}
				}
				lines[i] = m[1] + v + m[4]
				continue
			}
		}
		l = stamp.ReplaceAllStringFunc(l, func(s string) string {
			at, err := time.Parse("2006-01-02T15:04:05.000Z", s)
			require.NoError(t, err)
			return move(at).Format("2006-01-02T15:04:05.000Z")
		})
		l = many.ReplaceAllString(l, `"failures": 29`)
		l = since.ReplaceAllString(l, "$1 for 3m30s")
		lines[i] = clock.ReplaceAllStringFunc(l, func(s string) string {
			at, err := time.Parse("15:04:05 UTC on 2 January 2006", s)
			require.NoError(t, err)
			return move(at).Format("15:04:05 UTC on 2 January 2006")
		})
	}
	return []byte(strings.Join(lines, "\n") + "\n")
}
