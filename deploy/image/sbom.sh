#!/bin/sh
# What is in a root that mkroot.sh made, and from where: SPDX 2.3 as JSON in ROOT/usr/share/doc/sluice/sbom.spdx.json.
#
#     sbom.sh ROOT               check every file, write the document
#     sbom.sh --packages ROOT    only print the packages that own them
#
# Every file belongs to a Debian package, by its path, and has the bytes with which that package came, by dpkg's own sums; but
# for the program and the few files that mkroot.sh writes, which are named here. Anything else is an error. It runs where the
# files come from (dpkg's tables are asked), in plain sh and awk, because a slim Debian has no more.
set -eu

fail() {
    echo "sbom: $*" >&2
    exit 1
}

only_packages=false
if [ "${1:-}" = --packages ]; then
    only_packages=true
    shift
fi
[ $# -eq 1 ] && [ -d "$1" ] || fail "the form is sbom.sh [--packages] ROOT"
root=$(cd "$1" && pwd)
info=/var/lib/dpkg/info
[ -d $info ] || fail "there is no $info: run it on the Debian from which the files come"
document=usr/share/doc/sluice/sbom.spdx.json
ours="lib lib64 etc/group etc/nsswitch.conf etc/passwd usr/bin/sluice usr/share/doc/sluice/copyright"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$root"
export LC_ALL=C

find . -mindepth 1 ! -type d ! -path "./$document" -printf '%P\n' | sort >"$work/all"
odd=$(find . -mindepth 1 ! -type d ! -type f ! -type l -print -quit)
[ -z "$odd" ] || fail "$odd is neither a file nor a link"
if grep -q '[^A-Za-z0-9._+@/:-]' "$work/all"; then
    fail "the name \"$(grep -m 1 '[^A-Za-z0-9._+@/:-]' "$work/all")\" has characters that no file of an image has"
fi
for path in $ours; do echo "$path"; done >"$work/ours"

# ---- Whose is it? dpkg knows a file as /lib/... or /usr/lib/...: one key for both. ----

awk -v ours="$work/ours" -v all="$work/all" '
    function key(path) { sub(/^\//, "", path); sub(/^usr\//, "", path); return path }
    BEGIN {
        while ((getline line < ours) > 0) own[line] = 1
        while ((getline line < all) > 0) if (!(line in own)) wanted[key(line)] = line
    }
    FNR == 1 { package = FILENAME; sub(/.*\//, "", package); sub(/\.list$/, "", package) }
    { k = key($0); if (k in wanted && !(k in seen)) { seen[k] = 1; print wanted[k], package } }
' $info/*.list | sort >"$work/owned"
cut -d' ' -f2 "$work/owned" | sort -u >"$work/packages"
if $only_packages; then
    sed 's/:.*//' "$work/packages"
    exit 0
fi
cut -d' ' -f1 "$work/owned" | sort - "$work/ours" | comm -23 "$work/all" - >"$work/strange"
[ ! -s "$work/strange" ] || fail "no Debian package owns $(head -n 1 "$work/strange") ($(wc -l <"$work/strange") such in all); take it out of the image"

# ---- Is it what its package brought? ----

while read -r path; do
    if [ -L "$path" ]; then
        case $(readlink "$path") in
        /*) target=$root$(readlink "$path") ;;
        *) target=$(dirname "$path")/$(readlink "$path") ;;
        esac
        [ -e "$target" ] || fail "$path points to $(readlink "$path"), which is not in the image"
    else
        echo "$path"
    fi
done <"$work/all" >"$work/files"
xargs -a "$work/files" md5sum >"$work/md5"
xargs -a "$work/files" sha1sum >"$work/sha1"
xargs -a "$work/files" sha256sum >"$work/sha256"
while read -r package; do
    if [ -e "$info/$package.md5sums" ]; then sed "s|^|$package |" "$info/$package.md5sums"; fi
    dpkg-query -W -f='${Conffiles}\n' "$package" | awk -v package="$package" 'NF >= 2 { print package, $2, $1 }'
done <"$work/packages" >"$work/brought"
awk '
    function key(path) { sub(/^\//, "", path); sub(/^usr\//, "", path); return path }
    FILENAME ~ /owned$/ { owner[$1] = $2; next }
    FILENAME ~ /brought$/ { sum[$1 " " key($3)] = $2; next }
    $2 in owner {
        want = sum[owner[$2] " " key($2)]
        if (want != $1) { print $2, owner[$2]; exit }
    }
' "$work/owned" "$work/brought" "$work/md5" >"$work/changed"
[ ! -s "$work/changed" ] || fail "$(cut -d' ' -f1 "$work/changed") is not as $(cut -d' ' -f2 "$work/changed") brought it; take the file of the package"

# ---- The document. ----

# of NAME: a program's version and, as the name of this document, a digest of all that is in it
version=$(usr/bin/sluice --version 2>/dev/null | awk 'NR == 1 { print $2 }')
[ -n "$version" ] || fail "usr/bin/sluice does not say its version"
digest=$(cut -c1-64 "$work/sha256" | sha256sum | cut -c1-32)
created=$(date -u -d "@${SOURCE_DATE_EPOCH:-$(stat -c %Y usr/bin/sluice)}" +%Y-%m-%dT%H:%M:%SZ)
while read -r package; do
    code=$(awk -v package="$package" '
        NR == FNR { if ($2 == package) mine[$1] = 1; next }
        $2 in mine { print $1 }' "$work/owned" "$work/sha1" | sort | tr -d '\n' | sha1sum | cut -c1-40)
    dpkg-query -W -f="\${Package}\t\${Version}\t\${source:Package}\t\${source:Version}\t\${Architecture}\t$package\t$code\n" "$package"
done <"$work/packages" >"$work/facts"
code=$(awk 'NR == FNR { own[$1] = 1; next } $2 in own { print $1 }' "$work/ours" "$work/sha1" | sort | tr -d '\n' | sha1sum | cut -c1-40)
printf 'sluice\t%s\tsluice\t%s\t%s\tsluice\t%s\n' "$version" "$version" "$(dpkg --print-architecture)" "$code" >>"$work/facts"
awk -v version="$version" -v digest="$digest" -v created="$created" '
    BEGIN { FS = "[ \t]+" }
    FILENAME ~ /owned$/ { owner[$1] = $2; next }
    FILENAME ~ /sha1$/ { sha1[$2] = $1; next }
    FILENAME ~ /sha256$/ { sha256[$2] = $1; order[++n] = $2; next }
    { facts[++m] = $0 }
    END {
        printf "{\n  \"spdxVersion\": \"SPDX-2.3\",\n  \"dataLicense\": \"CC0-1.0\",\n  \"SPDXID\": \"SPDXRef-DOCUMENT\",\n"
        printf "  \"name\": \"sluice-image-%s\",\n", version
        printf "  \"documentNamespace\": \"https://spdx.org/spdxdocs/sluice-image-%s-%s\",\n", version, digest
        printf "  \"creationInfo\": {\"created\": \"%s\", \"creators\": [\"Tool: sluice-mkroot-%s\"]},\n", created, version
        printf "  \"documentDescribes\": [\"SPDXRef-Package-sluice\"],\n  \"packages\": [\n"
        for (i = 1; i <= m; i++) {
            split(facts[i], f, "\t")
            id = "SPDXRef-Package-" f[1]; gsub(/[^A-Za-z0-9.-]/, "-", id)
            ids[f[6]] = id
            supplier = f[6] == "sluice" ? "NOASSERTION" : "Organization: Debian"
            printf "    {\"name\": \"%s\", \"SPDXID\": \"%s\", \"versionInfo\": \"%s\", \"supplier\": \"%s\",\n", f[1], id, f[2], supplier
            printf "     \"downloadLocation\": \"NOASSERTION\", \"filesAnalyzed\": true,\n"
            printf "     \"packageVerificationCode\": {\"packageVerificationCodeValue\": \"%s\"},\n", f[7]
            printf "     \"licenseConcluded\": \"NOASSERTION\", \"licenseDeclared\": \"%s\",\n", f[6] == "sluice" ? "Apache-2.0" : "NOASSERTION"
            printf "     \"licenseInfoFromFiles\": [\"NOASSERTION\"], \"copyrightText\": \"NOASSERTION\""
            if (f[6] != "sluice") {
                printf ",\n     \"sourceInfo\": \"built from the Debian source package %s %s\",\n", f[3], f[4]
                purl = f[2]; gsub(/\+/, "%2B", purl); gsub(/:/, "%3A", purl); gsub(/~/, "%7E", purl)
                name = f[1]; gsub(/\+/, "%2B", name)
                printf "     \"externalRefs\": [{\"referenceCategory\": \"PACKAGE-MANAGER\", \"referenceType\": \"purl\",\n"
                printf "       \"referenceLocator\": \"pkg:deb/debian/%s@%s?arch=%s\"}]", name, purl, f[5]
            }
            printf "}%s\n", i < m ? "," : ""
        }
        printf "  ],\n  \"files\": [\n"
        for (i = 1; i <= n; i++) {
            path = order[i]
            printf "    {\"fileName\": \"./%s\", \"SPDXID\": \"SPDXRef-File-%d\", \"checksums\": [\n", path, i
            printf "       {\"algorithm\": \"SHA1\", \"checksumValue\": \"%s\"},\n", sha1[path]
            printf "       {\"algorithm\": \"SHA256\", \"checksumValue\": \"%s\"}],\n", sha256[path]
            printf "     \"licenseConcluded\": \"NOASSERTION\", \"licenseInfoInFiles\": [\"NOASSERTION\"], \"copyrightText\": \"NOASSERTION\"}%s\n", i < n ? "," : ""
        }
        printf "  ],\n  \"relationships\": [\n"
        printf "    {\"spdxElementId\": \"SPDXRef-DOCUMENT\", \"relationshipType\": \"DESCRIBES\", \"relatedSpdxElement\": \"SPDXRef-Package-sluice\"}"
        for (i = 1; i <= m; i++) {
            split(facts[i], f, "\t")
            if (f[6] != "sluice")
                printf ",\n    {\"spdxElementId\": \"SPDXRef-Package-sluice\", \"relationshipType\": \"DEPENDS_ON\", \"relatedSpdxElement\": \"%s\"}", ids[f[6]]
        }
        for (i = 1; i <= n; i++) {
            from = order[i] in owner ? ids[owner[order[i]]] : "SPDXRef-Package-sluice"
            printf ",\n    {\"spdxElementId\": \"%s\", \"relationshipType\": \"CONTAINS\", \"relatedSpdxElement\": \"SPDXRef-File-%d\"}", from, i
        }
        printf "\n  ]\n}\n"
    }
' "$work/owned" "$work/sha1" "$work/sha256" "$work/facts" >"$document"
