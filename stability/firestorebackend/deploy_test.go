package firestorebackend

import (
	"encoding/json"
	"os"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/reconnect"
)

// Every field that is written is exempt from indexes, and every expireAt has a
// TTL policy.
func TestTheIndexFileCoversEveryFieldThatIsWritten(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("firestore.indexes.json")
	require.NoError(t, err)
	var file struct {
		Indexes        []any `json:"indexes"`
		FieldOverrides []struct {
			CollectionGroup, FieldPath string
			TTL                        bool
			Indexes                    []any
		} `json:"fieldOverrides"`
	}
	require.NoError(t, json.Unmarshal(raw, &file))
	require.Empty(t, file.Indexes)
	exempt, ttl := map[string]bool{}, map[string]bool{}
	for _, o := range file.FieldOverrides {
		require.Empty(t, o.Indexes)
		exempt[o.CollectionGroup+"/"+o.FieldPath] = true
		if o.TTL {
			ttl[o.CollectionGroup+"/"+o.FieldPath] = true
		}
	}
	require.Equal(t, map[string]bool{"incidents/expireAt": true}, ttl)

	c, _ := onWire(t)
	b := opened(t, c)
	rec := hold(t, b)
	_, err = b.Lock.Renew(t.Context(), rec)
	require.NoError(t, err)
	large := make([]byte, 100_000)
	long := string(make([]byte, 1000))
	require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, authstore.Batch{Put: []authstore.Entry{
		{Key: authstore.Key{Kind: "device", ID: "g/d"}, Value: []byte("d")}, {Key: authstore.Key{Kind: "device", ID: long}, Value: large},
		{Key: key("small"), Value: []byte("s")}, {Key: key(long), Value: large}, {Key: authstore.Key{Kind: "event", ID: "g/e"}, Value: large},
	}}))
	raw2 := b.Auth.(keyValues).b
	require.NoError(t, raw2.settle(t.Context(), laneAuth, "test", func() *writer { raw2.writer.unclear = true; return raw2.writer }()))
	require.NoError(t, b.State.Save(t.Context(), rec.Epoch, reconnect.State{Status: reconnect.StatusConnected, ConnectedAt: time.Now()}))
	_, _, err = b.Incidents.Raise(t.Context(), guard.Incident{ID: "x", DetectedAt: time.Now(), Evidence: map[string]string{"a": "b"}})
	require.NoError(t, err)
	_, err = b.Incidents.Resolve(t.Context(), "x", time.Now())
	require.NoError(t, err)

	seen := map[string]bool{}
	groups := map[string]int{}
	for _, g := range []string{"locks", "whatsmeow_auth", "keys", "state", "incidents"} {
		docs, err := c.CollectionGroup(g).Documents(t.Context()).GetAll()
		require.NoError(t, err)
		groups[g] = len(docs)
		for _, d := range docs {
			for f := range d.Data() {
				seen[g+"/"+f] = true
				require.True(t, exempt[g+"/"+f] || exempt[g+"/*"], "%s is not exempt", g+"/"+f)
			}
		}
	}
	require.Equal(t, map[string]int{"locks": 2, "whatsmeow_auth": 1, "keys": 6, "state": 1, "incidents": 1}, groups)
	require.False(t, seen["keys/expireAt"], "no part of the session goes by itself, also no message that waits for its handler")
	for _, f := range []string{"incidents/expireAt", "keys/id", "keys/spilled", "locks/lastWrite", "whatsmeow_auth/creds", "state/connectedAt"} {
		require.True(t, seen[f], "the test does not write %s", f)
	}
}

func TestTheRulesDenyEverything(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("firestore.rules")
	require.NoError(t, err)
	text := regexp.MustCompile(`//[^\n]*`).ReplaceAllString(string(raw), "")
	require.Regexp(t, `(?s)^\s*rules_version = '2';\s*service cloud\.firestore \{\s*match /databases/\{database\}/documents \{\s*`+
		`match /\{document=\*\*\} \{\s*allow read, write: if false;\s*\}\s*\}\s*\}\s*$`, text)
}
