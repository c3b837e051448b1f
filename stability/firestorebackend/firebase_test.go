package firestorebackend

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// What `firebase deploy --only firestore` does in this folder is what README
// says: these rules, these indexes, and nothing else.
func TestFirebaseDeploysWhatReadmeSays(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("firebase.json")
	require.NoError(t, err)
	type target struct {
		Database, Rules, Indexes string
	}
	var config struct{ Firestore target }
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	require.NoError(t, d.Decode(&config), "a target that README does not name")
	require.Equal(t, target{"(default)", "firestore.rules", "firestore.indexes.json"}, config.Firestore)

	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	require.Contains(t, string(readme), "\n$ cd stability/firestorebackend && firebase deploy --only firestore --project $PROJECT\n")
	for _, name := range []string{"firebase.json", config.Firestore.Rules, config.Firestore.Indexes} {
		require.FileExists(t, name)
		require.Contains(t, string(readme), "(stability/firestorebackend/"+name+")")
	}
}
