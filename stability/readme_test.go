package stability_test

import (
	"fmt"
	"image/png"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// README's paragraph "No message is lost", a sentence at a time, and the tests
// that fail when it is not so.
var noMessageIsLost = []struct {
	sentence string
	tests    []string
}{
	{"No message is lost, and each is accounted for", []string{
		"stability.TestBookBalancesWhateverHappens", "stability.TestKilledAtAnyMomentItLogsInWithoutACodeAndLosesNoMessage",
		"stability.TestNoHandlerBehaviourLosesAMessage", "stability.TestHandlerThatCallsOSExitLosesNoMessage",
		"stability.TestHandlerThatIsRegisteredLateMissesNothing",
	}},
	{"Each received message is handled, waits, or was set aside, and `Status().Messages` counts all three", []string{
		"stability.TestBookBalancesWhateverHappens", "stability/internal/book.TestMessageIsInOneOfThreePlaces",
	}},
	{"What could not be saved is not acknowledged, and is delivered again", []string{
		"stability.TestAnOutageOfTheStoreWhileConnectedLosesNoMessage", "authstore.TestAnOutageNeverBecomesALostMessage",
	}},
	{"What your handler refused comes again by itself", []string{
		"stability.TestRefusedMessageComesAgainByItself", "stability.TestHostThatRefusesEverythingIsDownAndNotPoisoned",
	}},
	{"What it panicked at is kept, and handed over again", []string{
		"stability.TestMessageThatPanicsAHandlerIsKeptAndHandedOverAgain", "stability.TestWhatAHandlerPanickedAtOutlivesTheProcess",
	}},
	{"A message that it never takes while it takes others is set aside with its content", []string{
		"stability.TestPoisonousMessageIsSetAsideWithItsContent",
	}},
	{"One that ends the process is left alone at WhatsApp after four times at most, and what is behind it is handled", []string{
		"stability.TestMessagesThatKillTheProcessAreFoundAndLeftAlone", "stability.TestHandlerThatCallsOSExitLosesNoMessage",
	}},
	{"What cannot be decrypted is asked of the phone for 14 days", []string{
		"stability.TestUndecryptableMessageIsAskedOfThePhoneUntilItIsThere", "stability.TestUndecryptableMessageIsNotedBeforeItIsAcknowledged",
	}},
	{"After that an entry says who sent it, where and when", []string{
		"stability.TestMessageThatNobodySendsAgainEndsAsAnEntryWithoutContent",
	}},
	// What is not promised has no test.
	{"Excepted are newsletters without `SynchronousAck`, which whatsmeow acknowledges before it handles them", nil},
}

// A sentence that is added or changed needs its tests looked at, and a test that
// is renamed or removed leaves a sentence unproved.
func TestEachSentenceOfNoMessageIsLostHasATest(t *testing.T) {
	text, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	_, found, ok := strings.Cut(string(text), "\n- **No message is lost")
	require.True(t, ok)
	found, _, ok = strings.Cut("No message is lost"+found, ": [authstore](")
	require.True(t, ok)
	found = strings.Join(strings.Fields(strings.ReplaceAll(found, "**", "")), " ")
	var sentences []string
	for _, s := range noMessageIsLost {
		sentences = append(sentences, s.sentence)
		for _, name := range s.tests {
			dir, test, ok := strings.Cut(name, ".")
			require.True(t, ok, name)
			require.True(t, hasTest(t, filepath.Join("..", dir), test), "%s is nowhere", name)
		}
	}
	require.Equal(t, sentences, strings.Split(found, ". "))
}

func hasTest(t *testing.T, dir, name string) bool {
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	require.NoError(t, err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		if strings.Contains(string(text), fmt.Sprintf("\nfunc %s(t *testing.T)", name)) {
			return true
		}
	}
	return false
}

// The pictures in README are there, small, and described for who cannot see them.
func TestReadmePicturesAreThere(t *testing.T) {
	text, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	found := regexp.MustCompile(`<img [^>]*>|!\[[^\]]*\]\([^)]*\)`).FindAllString(string(text), -1)
	require.NotEmpty(t, found)
	for _, tag := range found {
		parts := regexp.MustCompile(`^<img src="(docs/images/[\w-]+\.png)" [^>]*alt="([^"]{20,})">$`).FindStringSubmatch(tag)
		require.NotNil(t, parts, "%s: a picture of this repository, with a text of 20 letters at least", tag)
		file, err := os.Open(filepath.Join("..", parts[1]))
		require.NoError(t, err)
		defer file.Close()
		_, err = png.DecodeConfig(file)
		require.NoError(t, err, parts[1])
		info, err := file.Stat()
		require.NoError(t, err)
		require.Less(t, info.Size(), int64(100_000), "%s is too large for a repository", parts[1])
	}
}
